"""Which experts to train or to steer: what a selection is, and the `rise` strategy.

A strategy is a function that returns a Selection; masks and file formats are made from that alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from analytics.names import languages_of
from store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

RISE_SHALLOW, RISE_MIDDLE = 0.35, 0.25  # of the budget; the rest is deep
RISE_ROLES = {"shallow": "specific", "middle": "shared", "deep": "specific"}


class SelectionError(MoetraceError):
    """The experts that were asked for cannot be selected from this run."""


@dataclass(frozen=True)
class SelectedExpert:
    """One selected expert, and why.

    - role: specific (to the targets), shared (among the languages) or task
    - score: what it was ranked by; specificity and overlap are the `rise` metrics behind it
    """

    layer: int
    expert: int
    role: str
    zone: str | None = None
    score: float | None = None
    specificity: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class Selection:
    """What a strategy chose.

    - targets: the languages it chose for; languages: those it compared, targets included; tokens: traced of those
    - parameters: the strategy's settings, as the mask records them
    - experts: ascending by layer, then expert
    - zones: the decoder layers of each zone, where the strategy has zones
    """

    strategy: str
    run: str
    targets: tuple[str, ...]
    languages: tuple[str, ...]
    tokens: int
    parameters: Mapping[str, Any]
    experts: tuple[SelectedExpert, ...]
    zones: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Candidate:
    layer: int
    expert: int
    zone: str
    specificity: float
    specificity_score: float
    overlap: float
    overlap_score: float

    @property
    def score(self) -> float:
        return self.overlap_score if self.zone == "middle" else self.specificity_score

    @property
    def rank(self) -> tuple[float, int, int]:
        # 12 digits, so that scores which differ by the order of a sum alone are ties on every machine.
        return -float(f"{self.score:.12g}"), self.layer, self.expert


def rise(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str],
    *,
    reference: Sequence[str] = (),
    budget: int = 128,
    alpha: float = 10.0,
    shallow: float = RISE_SHALLOW,
    middle: float = RISE_MIDDLE,
) -> Selection:
    """Select `budget` experts of the whole model by RISE (2604.03592, algorithm 1 and eq. 8).

    floor(budget x shallow) experts of the shallow zone, and of the deep zone what is left of the budget, are the most
    specific to the targets; floor(budget x middle) of the middle zone are the most evenly shared. What a zone cannot
    hold goes to the zone with most room; ties go to the lower (layer, expert). Specificity and overlap compare the
    targets and the `reference` languages, all languages of the run where none is named. With several targets an
    expert's specificity is that for the target which scores it highest: targets compete for one budget.

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for a budget that is below 1
    or above the number of experts, and for fewer than two languages.
    """
    chosen_targets = tuple(dict.fromkeys(targets))
    if not chosen_targets:
        raise SelectionError("rise selects experts for a language; name it with --target")
    languages_of(connection, run, chosen_targets)
    traced = languages_of(connection, run, {*chosen_targets, *reference} if reference else None)
    compared = tuple(traced)
    if len(compared) < 2:
        raise SelectionError(
            f"run '{run}': rise compares languages, and {compared[0]} is the only one; trace or name another"
        )
    if not 0 <= shallow <= 1 or not 0 <= middle <= 1 or _exact(shallow) + _exact(middle) > 1:
        raise SelectionError(f"zone shares {shallow:g} and {middle:g}: each is 0 to 1 and their sum at most 1")
    candidates = _candidates(connection, run, chosen_targets, compared, alpha)
    if not 1 <= budget <= len(candidates):
        raise SelectionError(f"budget {budget}: run '{run}' has {len(candidates)} experts; pass --budget 1 to that")
    experts: list[SelectedExpert] = []
    pools = {zone: [item for item in candidates if item.zone == zone] for zone in RISE_ROLES}
    for zone, quota in _quotas(budget, shallow, middle, {zone: len(pool) for zone, pool in pools.items()}).items():
        best = sorted(pools[zone], key=lambda item: item.rank)[:quota]
        experts += [
            SelectedExpert(item.layer, item.expert, RISE_ROLES[zone], zone, item.score, item.specificity, item.overlap)
            for item in best
        ]
    return Selection(
        strategy="rise",
        run=run,
        targets=chosen_targets,
        languages=compared,
        tokens=sum(traced.values()),
        parameters={"budget": budget, "alpha": alpha, "shallow": shallow, "middle": middle},
        experts=tuple(sorted(experts, key=lambda item: (item.layer, item.expert))),
        zones={zone: tuple(sorted({item.layer for item in pool})) for zone, pool in pools.items()},
    )


STRATEGIES = {"rise": rise}


def _quotas(budget: int, shallow: float, middle: float, room: Mapping[str, int]) -> dict[str, int]:
    """Share the budget out among the zones; what does not fit goes where most room is left."""
    wanted = {"shallow": int(budget * _exact(shallow)), "middle": int(budget * _exact(middle))}
    wanted["deep"] = budget - wanted["shallow"] - wanted["middle"]
    quotas = {zone: min(wanted[zone], room[zone]) for zone in wanted}
    while left := budget - sum(quotas.values()):
        widest = max(quotas, key=lambda zone: room[zone] - quotas[zone])
        quotas[widest] += min(left, room[widest] - quotas[widest])
    return quotas


def _exact(share: float) -> Fraction:
    """Return the decimal that was meant: floor(180 x 0.35) is 63, whatever binary 0.35 is."""
    return Fraction(str(share))


def _candidates(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str],
    languages: Sequence[str],
    alpha: float,
) -> list[_Candidate]:
    rows = connection.execute(
        """
        with target_expert as (
            select
                run,
                layer,
                expert,
                max(score) as score,
                arg_max(specificity, score) as specificity
            from specificity(alpha := $alpha, languages := $languages)
            where run = $run and list_contains($targets, lang)
            group by all
        )

        select
            layer,
            expert,
            zones.zone,
            target_expert.specificity,
            target_expert.score,
            shared_expert.overlap,
            shared_expert.score
        from target_expert
        inner join overlap(alpha := $alpha, languages := $languages) as shared_expert using (run, layer, expert)
        inner join zones using (run, layer)
        """,
        {"run": run, "targets": list(targets), "languages": list(languages), "alpha": alpha},
    ).fetchall()
    if not rows:
        raise SelectionError(f"run '{run}' has no usage; selecting experts needs the usage table")
    return [_Candidate(*row) for row in rows]

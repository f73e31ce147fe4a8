"""RISE: language-specific experts of the shallow and deep layers, shared ones of the middle (2604.03592)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.selection.checks import check_count, check_finite, compared_languages
from moetrace.analytics.selection.ranking import as_decimal, ranking_key
from moetrace.analytics.selection.run_facts import require_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

SHALLOW, MIDDLE = 0.35, 0.25  # of the budget; the rest is deep
ROLES = {"shallow": "specific", "middle": "shared", "deep": "specific"}


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
        return ranking_key(self.score, self.layer, self.expert)

    def selected(self, reason: str) -> SelectedExpert:
        metric = "overlap" if self.zone == "middle" else "specificity"
        return SelectedExpert(
            self.layer,
            self.expert,
            ROLES[self.zone],
            self.zone,
            self.score,
            self.specificity,
            self.overlap,
            f"{reason} by {metric} score",
        )


def rise(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str],
    *,
    reference: Sequence[str] = (),
    budget: int = 128,
    alpha: float = 10.0,
    shallow: float = SHALLOW,
    middle: float = MIDDLE,
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
    traced = compared_languages(connection, run, "rise", chosen_targets, reference)
    check_finite(alpha=alpha, shallow=shallow, middle=middle)
    if not 0 <= shallow <= 1 or not 0 <= middle <= 1 or as_decimal(shallow) + as_decimal(middle) > 1:
        raise SelectionError(f"zone shares {shallow:g} and {middle:g}: each is 0 to 1 and their sum at most 1")
    candidates = _candidates(connection, run, chosen_targets, tuple(traced), alpha)
    check_count("budget", budget, len(candidates), f"run '{run}' has {len(candidates)} experts")
    experts: list[SelectedExpert] = []
    missed: list[SelectedExpert] = []
    pools = {
        zone: sorted((item for item in candidates if item.zone == zone), key=lambda item: item.rank) for zone in ROLES
    }
    for zone, quota in _quotas(budget, shallow, middle, {zone: len(pool) for zone, pool in pools.items()}).items():
        experts += [
            item.selected(f"{zone}: {place} of {quota}") for place, item in enumerate(pools[zone][:quota], start=1)
        ]
        missed += [item.selected(f"{zone}: next after {quota}") for item in pools[zone][quota : quota + 1]]
    zones = {zone: tuple(sorted({item.layer for item in pool})) for zone, pool in pools.items()}
    return Selection(
        strategy="rise",
        run=run,
        targets=chosen_targets,
        languages=tuple(traced),
        tokens=sum(traced.values()),
        parameters={
            "budget": budget,
            "alpha": alpha,
            "shallow": shallow,
            "middle": middle,
            "reference": sorted(set(reference)),
            "zones": {zone: list(layers) for zone, layers in zones.items()},
        },
        experts=by_layer_and_expert(experts),
        zones=zones,
        missed=tuple(missed),
    )


def _quotas(budget: int, shallow: float, middle: float, room: Mapping[str, int]) -> dict[str, int]:
    """Share the budget out among the zones; what does not fit goes where most room is left."""
    wanted = {"shallow": int(budget * as_decimal(shallow)), "middle": int(budget * as_decimal(middle))}
    wanted["deep"] = budget - wanted["shallow"] - wanted["middle"]
    quotas = {zone: min(wanted[zone], room[zone]) for zone in wanted}
    while left := budget - sum(quotas.values()):
        widest = max(quotas, key=lambda zone: room[zone] - quotas[zone])
        quotas[widest] += min(left, room[widest] - quotas[widest])
    return quotas


def _candidates(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str],
    languages: Sequence[str],
    alpha: float,
) -> list[_Candidate]:
    with translate_duckdb_errors():
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
    return [_Candidate(*row) for row in require_usage(rows, run)]

"""RISE: language-specific experts of the shallow and deep layers, shared ones of the middle (2604.03592)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.selection.checks import check_count, check_finite, compared_languages
from moetrace.analytics.selection.load import with_counts
from moetrace.analytics.selection.min_count import MIN_COUNT, count_rule, too_few
from moetrace.analytics.selection.ranking import as_decimal, ranking_key
from moetrace.analytics.selection.run_facts import counts_are_nominal, require_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

SHALLOW, MIDDLE = 0.35, 0.25  # of the budget; the rest is deep
ROLES = {"shallow": "specific", "middle": "shared", "deep": "specific"}


@dataclass(frozen=True)
class _Candidate:
    """An expert; score, and the specificity behind it, are None where it has too few decisions for a specific role."""

    layer: int
    expert: int
    zone: str
    specificity: float | None
    score: float | None
    overlap: float

    def selected(self, reason: str) -> SelectedExpert:
        metric = "overlap" if self.zone == "middle" else "specificity"
        return SelectedExpert(
            self.layer,
            self.expert,
            ROLES[self.zone],
            self.zone,
            self.score,
            specificity=self.specificity,
            overlap=self.overlap,
            reason=f"{reason} by {metric} score",
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
    min_count: int = MIN_COUNT,
    shrinkage: float = 0.0,
) -> Selection:
    """Select `budget` experts of the whole model by RISE (2604.03592, algorithm 1 and eq. 8).

    floor(budget x shallow) experts of the shallow zone, and of the deep zone what is left of the budget, are the most
    specific to the targets; floor(budget x middle) of the middle zone are the most evenly shared. What a zone cannot
    hold goes to the zone with most room; ties go to the lower (layer, expert). Specificity and overlap compare the
    targets and the `reference` languages, all languages of the run where none is named. With several targets an
    expert's specificity is that for the target which scores it highest: targets compete for one budget.

    - min_count: routing decisions of a target below which an expert's specificity for it does not count (ours); 0 is
      RISE's own behaviour. Shared experts go by their mean and are not held to it, and zones keep their parts of the
      budget.
    - shrinkage: lambda of S = (c + lambda) / (T mean a + lambda), c the decisions of the target and T its tokens: so
      many decisions at the mean are added to what was seen (ours); 0 is RISE's S

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for a budget that is below 1
    or above the number of experts, for fewer than two languages, for fewer candidates than a zone's part of the budget,
    and for shrinkage where counts are nominal.
    """
    chosen_targets = tuple(dict.fromkeys(targets))
    if not chosen_targets:
        raise SelectionError("rise selects experts for a language; name it with --target")
    traced = compared_languages(connection, run, "rise", chosen_targets, reference)
    check_finite(alpha=alpha, shallow=shallow, middle=middle, shrinkage=shrinkage)
    if not 0 <= shallow <= 1 or not 0 <= middle <= 1 or as_decimal(shallow) + as_decimal(middle) > 1:
        raise SelectionError(f"zone shares {shallow:g} and {middle:g}: each is 0 to 1 and their sum at most 1")
    if shrinkage < 0:
        raise SelectionError(f"shrinkage {shrinkage:g}: pass 0 or more with --shrinkage")
    if shrinkage and counts_are_nominal(connection, run):
        raise SelectionError(
            f"run '{run}' knows frequencies and no counts, so --shrinkage cannot be applied; leave it out"
        )
    rule = count_rule(connection, run, min_count)
    settings = {"alpha": alpha, "least": rule.least, "shrinkage": shrinkage}
    candidates = _candidates(connection, run, chosen_targets, tuple(traced), settings)
    check_count("budget", budget, len(candidates), f"run '{run}' has {len(candidates)} experts")
    experts: list[SelectedExpert] = []
    missed: list[SelectedExpert] = []
    pools = {zone: [item for item in candidates if item.zone == zone] for zone in ROLES}
    for zone, quota in _quotas(budget, shallow, middle, {zone: len(pool) for zone, pool in pools.items()}).items():
        ranked = _ranked(pools[zone])
        if len(ranked) < quota:
            asked = f"budget {budget}, of which {quota} in the {zone} zone"
            raise too_few(asked, len(ranked), f"its {len(pools[zone])} experts", rule, chosen_targets, "--budget")
        experts += [item.selected(f"{zone}: {place} of {quota}") for place, item in enumerate(ranked[:quota], start=1)]
        missed += [item.selected(f"{zone}: next after {quota}") for item in ranked[quota : quota + 1]]
    zones = {zone: tuple(sorted({item.layer for item in pool})) for zone, pool in pools.items()}
    selection = Selection(
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
            **rule.parameters,
            "shrinkage": shrinkage,
            "reference": sorted(set(reference)),
            "zones": {zone: list(layers) for zone, layers in zones.items()},
        },
        experts=by_layer_and_expert(experts),
        zones=zones,
        missed=tuple(missed),
        notes=rule.notes,
    )
    return with_counts(connection, selection)


def _ranked(pool: Sequence[_Candidate]) -> list[_Candidate]:
    """Return those of a zone that have a score, the best first."""
    scored = [(item, item.score) for item in pool if item.score is not None]
    return [
        item for item, score in sorted(scored, key=lambda pair: ranking_key(pair[1], pair[0].layer, pair[0].expert))
    ]


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
    settings: Mapping[str, float],
) -> list[_Candidate]:
    """Return every expert of the run.

    settings: alpha; least, the decisions of a target that its specificity needs; shrinkage
    """
    with translate_duckdb_errors():
        rows = connection.execute(
            """
            with target_language as (
                select
                    layer,
                    expert,
                    zones.zone,
                    zones.zone = 'middle' or lead.count >= $least as counts,
                    lead.specificity,
                    lead.score
                from specificity(alpha := $alpha, shrinkage := $shrinkage, languages := $languages) as lead
                inner join zones using (run, layer)
                where lead.run = $run and list_contains($targets, lead.lang)
            ),

            target_expert as (
                select
                    layer,
                    expert,
                    zone,
                    max(score) filter (counts) as score,
                    arg_max(specificity, score) filter (counts) as specificity
                from target_language
                group by all
            )

            select
                layer,
                expert,
                target_expert.zone,
                target_expert.specificity,
                if(target_expert.zone = 'middle', shared_expert.score, target_expert.score),
                shared_expert.overlap
            from target_expert
            inner join overlap(alpha := $alpha, languages := $languages) as shared_expert using (layer, expert)
            where shared_expert.run = $run
            """,
            {"run": run, "targets": list(targets), "languages": list(languages), **settings},
        ).fetchall()
    return [_Candidate(*row) for row in require_usage(rows, run)]

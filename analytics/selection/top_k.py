"""The most used experts, over the whole model or of each layer: the plainest selection, and a baseline."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from moetrace.analytics.database.names import languages_of
from moetrace.analytics.selection.checks import check_count
from moetrace.analytics.selection.load import with_counts
from moetrace.analytics.selection.min_count import MIN_COUNT, count_rule, too_few
from moetrace.analytics.selection.ranking import ranking_key
from moetrace.analytics.selection.run_facts import model_of, pooled_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from moetrace.analytics.selection.run_facts import PooledUsage

BUDGET = 128


def top_k(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str] = (),
    *,
    budget: int | None = None,
    per_layer: int | None = None,
    min_count: int = MIN_COUNT,
) -> Selection:
    """Select the `budget` experts of the whole model, or the `per_layer` of each MoE layer, with the highest a.

    a = count / T, the activation frequency; the counts and tokens of several targets are added up first, of all
    languages of the run where none is named. Ties go to the lower (layer, expert). `budget` is 128 where neither is
    given. An expert with fewer than `min_count` of these counts is no candidate.

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for both a budget and a
    number per layer, for more experts than there are, and for more than there are candidates.
    """
    if budget is not None and per_layer is not None:
        raise SelectionError("top-k takes --budget for the whole model or --per-layer for each layer, not both")
    chosen_targets = tuple(dict.fromkeys(targets))
    traced = languages_of(connection, run, chosen_targets or None)
    rule = count_rule(connection, run, min_count)
    pool = pooled_usage(connection, run, traced)
    if per_layer is None:
        budget = BUDGET if budget is None else budget
        check_count("budget", budget, len(pool), f"run '{run}' has {len(pool)} experts")
        groups = {"the model": pool}
        taken, asked, less = budget, f"budget {budget}", "--budget"
    else:
        num_experts = model_of(connection, run).num_experts
        check_count("per-layer", per_layer, num_experts, f"a layer of run '{run}' has {num_experts} experts")
        groups = {f"layer {layer}": list(rows) for layer, rows in groupby(pool, key=lambda item: item.layer)}
        taken, asked, less = per_layer, f"per-layer {per_layer}", "--per-layer"
    experts: list[SelectedExpert] = []
    missed: list[SelectedExpert] = []
    role = "specific" if chosen_targets else "shared"
    for name, rows in groups.items():
        candidates = [item for item in rows if item.count >= rule.least]
        if len(candidates) < taken:
            raise too_few(asked, len(candidates), f"the {len(rows)} experts of {name}", rule, chosen_targets, less)
        ranked = sorted(candidates, key=lambda item: ranking_key(_frequency(item), item.layer, item.expert))
        for place, item in enumerate(ranked[: taken + 1], start=1):
            words = f"{place} of {taken}" if place <= taken else f"next after {taken}"
            found = SelectedExpert(
                item.layer, item.expert, role, score=_frequency(item), reason=f"{name}: {words} by a = count / T"
            )
            (experts if place <= taken else missed).append(found)
    selection = Selection(
        strategy="top-k",
        run=run,
        targets=chosen_targets,
        languages=tuple(traced),
        tokens=sum(traced.values()),
        parameters={"budget": budget, "per_layer": per_layer, **rule.parameters},
        experts=by_layer_and_expert(experts),
        zones={},
        missed=tuple(missed),
        notes=rule.notes,
    )
    return with_counts(connection, selection)


def _frequency(item: PooledUsage) -> float:
    return item.count / item.tokens

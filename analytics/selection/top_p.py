"""ESFT's top-p: of each layer the experts that together do a share p of its work (2407.01906)."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING

from moetrace.analytics.database.names import languages_of
from moetrace.analytics.selection.checks import check_finite
from moetrace.analytics.selection.load import with_counts
from moetrace.analytics.selection.ranking import as_decimal, rounded_score
from moetrace.analytics.selection.run_facts import pooled_usage
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from moetrace.analytics.selection.run_facts import PooledUsage

SCORES = ("token", "gate")
STEPS = 10_000  # scores are rounded to 4 decimals; as whole steps their sums are exact


def top_p(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str] = (),
    *,
    score: str = "token",
    p: float = 0.2,
) -> Selection:
    """Select, in every MoE layer, experts by descending score until their scores sum to `p` (ESFT, 2407.01906).

    The score of an expert is its part of the layer's routing decisions (`token`) or of the layer's applied gate weights
    (`gate`), rounded to 4 decimals; ties go to the lower expert. The counts of several targets are added up first, of
    all languages of the run where none is named.

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for a p that is not above 0
    and at most 1, and for gate scores of a run without gate weights.
    """
    if score not in SCORES:
        raise SelectionError(f"score '{score}': pass one of {', '.join(SCORES)} with --score")
    check_finite(p=p)
    if not 0 < p <= 1:
        raise SelectionError(f"p {p:g}: pass a share above 0 and at most 1 with --p")
    chosen_targets = tuple(dict.fromkeys(targets))
    traced = languages_of(connection, run, chosen_targets or None)
    needed = as_decimal(p) * STEPS
    experts: list[SelectedExpert] = []
    missed: list[SelectedExpert] = []
    role = "specific" if chosen_targets else "shared"
    for layer, of_layer in groupby(pooled_usage(connection, run, traced), key=lambda item: item.layer):
        reached = 0
        ranked = sorted(_steps(list(of_layer), score, run).items(), key=lambda item: (-item[1], item[0]))
        for rank, (expert, steps) in enumerate(ranked):
            if reached >= needed:
                reason = f"rank {rank}: the scores before it sum to {reached / STEPS:.4f}, p is {p:g}"
                missed.append(SelectedExpert(layer, expert, role, score=steps / STEPS, reason=reason))
                break
            reached += steps
            reason = f"rank {rank}: with it the scores sum to {reached / STEPS:.4f}, p is {p:g}"
            experts.append(SelectedExpert(layer, expert, role, score=steps / STEPS, reason=reason))
    selection = Selection(
        strategy="top-p",
        run=run,
        targets=chosen_targets,
        languages=tuple(traced),
        tokens=sum(traced.values()),
        parameters={"score": score, "p": p},
        experts=by_layer_and_expert(experts),
        zones={},
        missed=tuple(missed),
    )
    return with_counts(connection, selection)


def _steps(of_layer: Sequence[PooledUsage], score: str, run: str) -> dict[int, int]:
    """Return the score of each expert of one layer in steps of 0.0001."""
    if score == "token":
        total = sum(item.count for item in of_layer)
        return {item.expert: round(Fraction(item.count * STEPS, total)) if total else 0 for item in of_layer}
    weights = {item.expert: item.weight_sum for item in of_layer}
    known = {expert: weight for expert, weight in weights.items() if weight is not None}
    total_weight = sum(known.values())
    if len(known) < len(weights) or not total_weight:
        raise SelectionError(f"run '{run}' has no gate weights; pass --score token")
    return {expert: round(rounded_score(weight / total_weight) * STEPS) for expert, weight in known.items()}

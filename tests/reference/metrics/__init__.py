"""Every metric a second time, in NumPy and SciPy, from the formulas and the raw routing: never from the SQL.

A metric is a list of rows, one dict each, in any order, with the columns of the view of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.reference.metrics.distributions import activation, divergence, divergence_by_layer, routing_entropy
from tests.reference.metrics.experts import activation_gap, exclusive_experts, overlap, specificity
from tests.reference.metrics.filters import kept
from tests.reference.metrics.layers import language_specialization, zones, zones_auto
from tests.reference.metrics.runs import route_agreement, task_experts
from tests.reference.metrics.scores import score_correlation
from tests.reference.metrics.sets import (
    expert_sets,
    jaccard,
    jaccard_by_language,
    jaccard_by_layer,
    jaccard_by_pair,
    jaccard_curve,
)
from tests.reference.metrics.texts import pivot_similarity, routing_consistency, text_frequency
from tests.reference.metrics.totals import Routing, Row, routing
from tests.reference.metrics.vocabulary import (
    divergence_vocabulary_controlled,
    divergence_vs_vocabulary,
    vocabulary_overlap,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "METRICS",
    "Routing",
    "divergence",
    "kept",
    "language_specialization",
    "overlap",
    "route_agreement",
    "routing",
    "routing_entropy",
    "score_correlation",
    "specificity",
    "task_experts",
    "text_frequency",
    "zones",
]

METRICS: dict[str, Callable[..., list[Row]]] = {
    metric.__name__: metric
    for metric in (
        activation,
        expert_sets,
        jaccard,
        divergence_by_layer,
        jaccard_by_layer,
        jaccard_by_language,
        jaccard_by_pair,
        jaccard_curve,
        routing_entropy,
        divergence,
        pivot_similarity,
        specificity,
        overlap,
        zones,
        zones_auto,
        activation_gap,
        language_specialization,
        exclusive_experts,
        vocabulary_overlap,
        divergence_vs_vocabulary,
        divergence_vocabulary_controlled,
        routing_consistency,
    )
}

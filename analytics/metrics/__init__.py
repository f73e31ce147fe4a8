"""Every metric of sql/3_metrics as a polars frame: one function a view, with the view's name and its macro's arguments.

    from moetrace.analytics import metrics
    metrics.jaccard(connection, languages=["eng_Latn", "swh_Latn"])

The definitions, columns, ranges and sources stand in the SQL files; `moetrace views NAME` prints them. Frames are
sorted by their columns, from left to right, and hold every run of the store. A language that no run has raises
UnknownNameError. Metrics made of counts take `Filters` by keyword, such as prompt_only=True, and then count the other
tokens alone. Where there is no row because no run was traced with what the metric needs, MoetraceError says so.
"""

from moetrace.analytics.metrics.distributions import activation, divergence, divergence_by_layer, routing_entropy
from moetrace.analytics.metrics.experts import activation_gap, exclusive_experts, overlap, specificity
from moetrace.analytics.metrics.filters import Filters
from moetrace.analytics.metrics.layers import language_specialization, zones, zones_auto
from moetrace.analytics.metrics.runs import route_agreement, stage_comparison, task_experts
from moetrace.analytics.metrics.scores import read_scores, score_correlation, use_scores
from moetrace.analytics.metrics.sets import (
    expert_sets,
    jaccard,
    jaccard_by_language,
    jaccard_by_layer,
    jaccard_by_pair,
    jaccard_curve,
)
from moetrace.analytics.metrics.texts import corpus_profile, pivot_similarity, routing_consistency
from moetrace.analytics.metrics.vocabulary import (
    divergence_vocabulary_controlled,
    divergence_vs_vocabulary,
    vocabulary_overlap,
)

__all__ = [
    "Filters",
    "activation",
    "activation_gap",
    "corpus_profile",
    "divergence",
    "divergence_by_layer",
    "divergence_vocabulary_controlled",
    "divergence_vs_vocabulary",
    "exclusive_experts",
    "expert_sets",
    "jaccard",
    "jaccard_by_language",
    "jaccard_by_layer",
    "jaccard_by_pair",
    "jaccard_curve",
    "language_specialization",
    "overlap",
    "pivot_similarity",
    "read_scores",
    "route_agreement",
    "routing_consistency",
    "routing_entropy",
    "score_correlation",
    "specificity",
    "stage_comparison",
    "task_experts",
    "use_scores",
    "vocabulary_overlap",
    "zones",
    "zones_auto",
]

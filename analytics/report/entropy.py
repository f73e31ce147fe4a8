"""Section: how evenly each language's tokens spread over the experts of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.report.layer_charts import (
    Value,
    coloured_last,
    highlighted,
    language_heat,
    language_lines,
    line_labels,
)
from moetrace.analytics.report.section import Section, figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.source import Source

ENTROPY = Value("entropy_normalized", "normalised routing entropy, 0 to 1")


def entropy(source: Source, targets: Sequence[str]) -> Section:
    """Return the normalised entropy of expert use by language and layer."""
    query = f"""select lang, layer, entropy_normalized
from routing_entropy
where {source.this_run}
order by lang, layer"""
    section = Section(
        name="entropy",
        title="Routing entropy",
        reading=(
            "1 means that a language's tokens use all experts of the layer alike, 0 that all go to one expert. Low "
            "entropy is where a language has experts of its own, or where the router is poorly balanced for it."
        ),
        formula="H(p) / ln E, with p the share of the layer's routing decisions that go to each of its E experts",
        queries={"entropy": query},
    )
    if source.reason_without_counts:
        return section.without_data(source.reason_without_counts)
    frame = source.frame(query)
    means = (
        frame.group_by("lang").agg(pl.col(ENTROPY.column).mean()).sort(ENTROPY.column, "lang", descending=[True, False])
    )
    ranked = means["lang"].to_list()
    always = [*targets, *([source.pivot] if source.pivot else [])]
    coloured = highlighted(ranked, always)
    return section.with_data(
        {"entropy": coloured_last(frame, coloured), "entropy_labels": line_labels(frame, ENTROPY, coloured)},
        findings=_findings(means, frame),
        figures=(
            figure(
                "entropy_lines",
                "Normalised routing entropy by layer, a line a language",
                language_lines("entropy", ENTROPY, frame, source.record.moe_layers, coloured),
                ("entropy", "entropy_labels", "zones"),
            ),
            figure(
                "entropy_heat",
                "The same as a map, languages from highest to lowest entropy",
                language_heat("entropy", ENTROPY, ranked),
                ("entropy",),
                renderer="canvas",
            ),
        ),
    )


def _findings(means: pl.DataFrame, frame: pl.DataFrame) -> tuple[str, ...]:
    depth = frame.group_by("layer").agg(pl.col(ENTROPY.column).mean()).sort(ENTROPY.column)
    low, high = depth.row(0, named=True), depth.row(-1, named=True)
    depths = (
        f"Tokens spread most evenly over the experts in layer {high['layer']} ({high[ENTROPY.column]:.2f}) and "
        f"concentrate most in layer {low['layer']} ({low[ENTROPY.column]:.2f})."
    )
    if means.height == 1:
        return (depths,)
    most, least = means.row(0, named=True), means.row(-1, named=True)
    ends = (
        f"{most['lang']} spreads over its experts most evenly (mean {most[ENTROPY.column]:.2f}), {least['lang']} least "
        f"({least[ENTROPY.column]:.2f})."
    )
    return depths, ends

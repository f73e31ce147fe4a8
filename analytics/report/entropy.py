"""Section: how evenly each language's tokens spread over the experts of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.report.findings import by_language, mean_over_languages, with_intervals
from moetrace.analytics.report.layer_charts import (
    Value,
    coloured_last,
    highlighted,
    language_heat,
    language_lines,
)
from moetrace.analytics.report.section import Section, figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.findings import Series
    from moetrace.analytics.report.source import Source

ENTROPY = Value("entropy_normalized", "normalised routing entropy, 0 to 1", low="low", high="high")


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
    frame, layers, drawn = source.frame(query), source.record.moe_layers, source.counts
    curves = (
        {lang: curve.scaled(1 / np.log(source.record.num_experts)) for lang, curve in drawn.entropy.items()}
        if drawn
        else None
    )
    means = (
        frame.group_by("lang").agg(pl.col(ENTROPY.column).mean()).sort(ENTROPY.column, "lang", descending=[True, False])
    )
    ranked = means["lang"].to_list()
    always = [*targets, *([source.pivot] if source.pivot else [])]
    coloured = highlighted(ranked, always)
    shown = with_intervals(frame, ENTROPY.column, curves or {}, layers)
    return section.with_data(
        {"entropy": coloured_last(shown, coloured)},
        findings=_findings(
            mean_over_languages(frame, ENTROPY.column, curves, layers, ".3f"),
            by_language(frame, ENTROPY.column, curves, layers, ".3f"),
        ),
        notes=source.note_of(drawn.drawn if drawn else None),
        figures=(
            figure(
                "entropy_lines",
                "Normalised routing entropy by layer",
                language_lines("entropy", ENTROPY, shown, layers, coloured, over=always),
                ("entropy", "zones"),
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


def _findings(depth: Series, languages: Series) -> tuple[str, ...]:
    depths = depth.ends(
        "Tokens spread most evenly over the experts in",
        "concentrate most in",
        "Tokens spread over the experts alike in every layer, as far as these texts can tell",
    )
    if len(languages.names) == 1:
        return (depths,)
    return depths, languages.ends(
        "Over all layers, the most even is",
        "the least even",
        "Over all layers, no language spreads over its experts more evenly than another, as far as these texts can "
        "tell",
    )

"""Section: how alike the router treats a text and its translation in the pivot language."""

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

SIMILARITY = Value("similarity", "routing similarity to the pivot, 0 to 1")


def pivot(source: Source, targets: Sequence[str]) -> Section:
    """Return the similarity to the pivot language by language and layer, or why it is not known."""
    query = f"""select lang, layer, pairs, similarity
from pivot_similarity
where {source.this_run}
order by lang, layer"""
    name = source.pivot or "the pivot language"
    section = Section(
        name="pivot",
        title=f"Similarity to {name}" if source.pivot else "Similarity to the pivot language",
        reading=(
            f"Every text is compared with its own translation in {name}: 1 means that the router spreads both over the "
            "experts in the same way. Language-universal processing shows as lines that rise in the middle layers; a "
            "language whose line stays low is routed apart from the pivot throughout."
        ),
        formula=(
            "similarity = 1 - mean over texts of JSD(q1, q2) / (ln E - (H(q1) + H(q2)) / 2), q1 and q2 the mean router "
            "probabilities over a text and over its translation (2510.04694, eq. 1 and 2)"
        ),
        queries={"pivot": query},
    )
    missing = _missing(source)
    if missing:
        return section.without_data(missing)
    frame = source.frame(query)
    if frame.is_empty():
        return section.without_data(
            f"No text of another language has the id of a text in {name}, so there is nothing to compare."
        )
    means = (
        frame.group_by("lang")
        .agg(pl.col("similarity").mean(), pl.col("pairs").max())
        .sort("similarity", "lang", descending=[True, False])
    )
    ranked = means["lang"].to_list()
    layers = source.record.moe_layers
    coloured = highlighted(ranked, targets)
    return section.with_data(
        {"pivot": coloured_last(frame, coloured), "pivot_labels": line_labels(frame, SIMILARITY, coloured)},
        findings=_findings(means, frame, name),
        figures=(
            figure(
                "pivot_lines",
                f"Similarity to {name} by layer, a line a language",
                language_lines("pivot", SIMILARITY, frame, layers, coloured),
                ("pivot", "pivot_labels", "zones"),
            ),
            figure(
                "pivot_heat",
                "The same as a map, languages from most to least similar",
                language_heat("pivot", SIMILARITY, ranked),
                ("pivot",),
                renderer="canvas",
            ),
        ),
    )


def _missing(source: Source) -> str | None:
    if "profiles" not in source.record.tables:
        return (
            "The run has no profiles (the router's full probabilities of each text), which this measure needs. Trace "
            "without --no-profiles to have them; imported traces do not carry them."
        )
    if not source.pivot:
        return "The run names no pivot language. Trace with --pivot to have one."
    if source.pivot not in source.languages:
        return f"The pivot language {source.pivot} is not in the store yet."
    if len(source.languages) == 1:
        return f"The run has no language beside the pivot, {source.pivot}."
    return None


def _findings(means: pl.DataFrame, frame: pl.DataFrame, pivot_name: str) -> tuple[str, ...]:
    first, last = means.row(0, named=True), means.row(-1, named=True)
    depth = frame.group_by("layer").agg(pl.col("similarity").mean()).sort("similarity")
    low, high = depth.row(0, named=True), depth.row(-1, named=True)
    counts = sorted(set(means["pairs"].to_list()))
    texts = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    ends = (
        f"{first['lang']} is routed most like {pivot_name} (mean {first['similarity']:.2f}), {last['lang']} least "
        f"({last['similarity']:.2f})"
        if means.height > 1
        else f"{first['lang']} has a mean similarity to {pivot_name} of {first['similarity']:.2f}"
    )
    depths = (
        f"Over all languages, similarity is highest in layer {high['layer']} ({high['similarity']:.2f}) and lowest in "
        f"layer {low['layer']} ({low['similarity']:.2f})."
    )
    return f"{ends}, over {texts} parallel texts a language.", depths

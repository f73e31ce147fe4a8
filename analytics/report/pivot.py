"""Section: how alike the router treats a text and its translation in the pivot language."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.metrics.translations import compare_translations
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

EXCESS = Value("excess", "similarity beyond that of other texts", ".4f")
SIMILARITY = Value("similarity", "routing similarity to the pivot, 0 to 1")
HAIR = 0.005  # of excess, in the mean over languages: below it in every layer, the sentence is said to play no part


def pivot(source: Source, targets: Sequence[str]) -> Section:
    """Return the similarity to the pivot language by language and layer, or why it is not known."""
    query = f"""select lang, layer, pairs, excess, similarity, mispaired
from pivot_similarity
where {source.this_run}
order by lang, layer"""
    name = source.pivot or "the pivot language"
    section = Section(
        name="pivot",
        title=f"Similarity to {name}" if source.pivot else "Similarity to the pivot language",
        reading=(
            f"Every text is compared with its own translation in {name}, and with translations of other texts of about "
            "the same length. Similarity is 1 where the router spreads both over the experts in the same way; most of "
            "it is what any two texts of these two languages and scripts share. Excess is what a text shares with its "
            "own translation beyond that: 0 means that the router sees the language and not the sentence. Excess is "
            "not meaning alone: names, numbers, punctuation and placeholders that a translation copies are in it too."
        ),
        formula=(
            "similarity = 1 - mean over texts of JSD(q1, q2) / (ln E - (H(q1) + H(q2)) / 2), q1 and q2 the mean router "
            "probabilities over a text and over its translation (2510.04694, eq. 1 and 2); mispaired = the same with "
            "translations of other texts, the mean of three such pairings; excess = similarity - mispaired"
        ),
        queries={"pivot": query},
    )
    missing = _missing(source)
    if missing:
        return section.without_data(missing)
    # What the query says, in memory that does not grow with the texts.
    found = compare_translations(source.connection, None, None, None, derangements=3, run=source.record.run)
    frame = found.select("lang", "layer", "pairs", "excess", "similarity", "mispaired")
    if frame.is_empty():
        return section.without_data(
            f"No text of another language has the id of a text in {name}, so there is nothing to compare."
        )
    means = (
        frame.group_by("lang")
        .agg(pl.col("similarity", "excess").mean(), pl.col("pairs").max())
        .sort("similarity", "lang", descending=[True, False])
    )
    ranked = means["lang"].to_list()
    layers = source.record.moe_layers
    known = frame.drop_nulls(EXCESS.column)
    by_excess = means.drop_nulls(EXCESS.column).sort(EXCESS.column, "lang", descending=[True, False])
    coloured = highlighted(by_excess["lang"].to_list() or ranked, targets)
    datasets = {"pivot": coloured_last(frame, coloured), "pivot_labels": line_labels(frame, SIMILARITY, coloured)}
    figures = [
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
    ]
    findings = _findings(means, frame, name)
    if not known.is_empty():
        datasets["excess_labels"] = line_labels(known, EXCESS, coloured)
        excess = figure(
            "pivot_excess",
            f"Excess by layer: how much more alike a text and its own translation in {name} are routed",
            language_lines("pivot", EXCESS, known, layers, coloured, labels="excess_labels"),
            ("pivot", "excess_labels", "zones"),
        )
        figures, findings = [excess, *figures], (*_excess_findings(by_excess, known), *findings)
    return section.with_data(datasets, findings=findings, figures=tuple(figures))


def _missing(source: Source) -> str | None:
    if "profiles" not in source.record.tables:
        return (
            "The run has no profiles (the router's full probabilities of each text), which this measure needs. Trace "
            "without --no-profiles to have them; imported traces do not carry them."
        )
    if not source.pivot:
        return "The run names no pivot language. Trace with --pivot to have one."
    if not source.record.parallel:
        return (
            "The run's text ids are not parallel: the same id in two languages is not the same text, so no text has a "
            "translation to be compared with."
        )
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


def _excess_findings(means: pl.DataFrame, frame: pl.DataFrame) -> tuple[str, ...]:
    """Say how large excess is, of languages from most to least; `frame` has it by language and layer."""
    depth = frame.group_by("layer").agg(pl.col("excess").mean()).sort("excess", "layer", descending=[True, False])
    high, low = depth.row(0, named=True), depth.row(-1, named=True)
    if max(abs(high["excess"]), abs(low["excess"])) < HAIR:
        said = (
            "A text is routed hardly more like its own translation than like those of other texts: excess, the mean "
            f"over languages, is {high['excess']:.4f} where it is highest (layer {high['layer']}). Similarity measures "
            "script and language here, not the sentence."
        )
        return (said,)
    first, last = means.row(0, named=True), means.row(-1, named=True)
    depths = (
        f"Over all languages, a text is more like its own translation than like those of other texts by "
        f"{high['excess']:.3f} in layer {high['layer']}, where this excess is highest, and by {low['excess']:.3f} in "
        f"layer {low['layer']}, where it is lowest."
    )
    if means.height == 1:
        return (depths,)
    ends = (
        f"Excess is largest for {first['lang']} (mean {first['excess']:.3f}) and smallest for {last['lang']} "
        f"({last['excess']:.3f})."
    )
    return depths, ends

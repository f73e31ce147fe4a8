"""Section: how alike the router treats a text and its translation in the pivot language."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.metrics.translations import compare_translations
from moetrace.analytics.report.findings import by_language, mean_over_languages, with_intervals
from moetrace.analytics.report.layer_charts import (
    Value,
    coloured_last,
    highlighted,
    language_heat,
    language_lines,
)
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.findings import Series
    from moetrace.analytics.report.source import Source

EXCESS = Value("excess", "similarity beyond that of other texts", ".4f", low="excess_low", high="excess_high")
SIMILARITY = Value("similarity", "routing similarity to the pivot, 0 to 1", low="low", high="high")
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
    drawn = source.translations
    similar, beyond = (drawn.similarity, drawn.excess) if drawn else ({}, {})
    shown = with_intervals(frame, EXCESS.column, beyond, layers).rename({"low": "excess_low", "high": "excess_high"})
    shown = with_intervals(shown, SIMILARITY.column, similar, layers)
    datasets = {"pivot": coloured_last(shown, coloured)}
    figures = [
        figure(
            "pivot_lines",
            f"Similarity to {name} by layer",
            language_lines("pivot", SIMILARITY, shown, layers, coloured, over=targets),
            ("pivot", "zones"),
        ),
        figure(
            "pivot_heat",
            "The same as a map, languages from most to least similar",
            language_heat("pivot", SIMILARITY, ranked),
            ("pivot",),
            renderer="canvas",
        ),
    ]
    findings = _findings(
        mean_over_languages(frame, SIMILARITY.column, similar, layers, ".3f"),
        by_language(frame, SIMILARITY.column, similar, layers, ".3f"),
        means,
        name,
    )
    if not known.is_empty():
        excess = figure(
            "pivot_excess",
            f"Excess by layer: how much more alike a text and its own translation in {name} are routed",
            language_lines("pivot", EXCESS, shown.drop_nulls(EXCESS.column), layers, coloured, over=targets),
            ("pivot", "zones"),
        )
        said = _excess_findings(
            mean_over_languages(known, EXCESS.column, beyond, layers, ".4f"),
            by_language(known, EXCESS.column, beyond, layers, ".4f"),
        )
        figures, findings = [excess, *figures], (*said, *findings)
    return section.with_data(
        datasets,
        findings=findings,
        figures=tuple(figures),
        notes=source.note_of(drawn.drawn if drawn else None),
    )


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


def _findings(depth: Series, languages: Series, means: pl.DataFrame, pivot_name: str) -> tuple[str, ...]:
    counts = sorted(set(means["pairs"].to_list()))
    texts = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    depths = depth.ends(
        "Over all languages, similarity is highest in",
        "lowest in",
        "Over all languages, similarity does not change with depth, as far as these texts can tell",
    )
    if len(languages.names) == 1:
        only = f"{languages.names[0]} has a mean similarity to {pivot_name} of {languages.said(0)}"
        return f"{only}, over {texts} parallel texts.", depths
    ends = languages.ends(
        f"Over all layers and {texts} parallel texts a language, most like {pivot_name} is",
        "least",
        f"No language is routed more like {pivot_name} than another, as far as these texts can tell",
    )
    return ends, depths


def _excess_findings(depth: Series, languages: Series) -> tuple[str, ...]:
    """Say how large excess is, by layer and of languages, and where it cannot be told from none."""
    if max(abs(depth.values)) < HAIR:
        said = (
            "A text is routed hardly more like its own translation than like those of other texts: excess, the mean "
            f"over languages, is highest in {depth.named(depth.highest())}. Similarity measures script and language "
            "here, not the sentence."
        )
        return (said,)
    depths = depth.ends(
        "Over all languages, excess (how much more a text is like its own translation than like those of other "
        "texts) is highest in",
        "lowest in",
        "Excess does not change with depth, as far as these texts can tell",
    )
    found = [depths]
    if len(languages.names) > 1:
        found.append(
            languages.ends(
                "Over all layers, excess is largest for",
                "smallest for",
                "Over all layers, excess is no larger for one language than for another, as far as these texts can "
                "tell",
            )
        )
    if nothing := languages.around_zero():
        found.append(
            f"Excess cannot be told from 0 for {listed(nothing)}: there the sentence plays no part that shows."
        )
    return tuple(found)

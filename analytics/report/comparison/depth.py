"""Sections: how isolation, divergence, entropy and similarity of two runs differ by depth and by language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.database.quoting import literal
from moetrace.analytics.report.comparison.charts import both_curves, by_language, difference_curve
from moetrace.analytics.report.comparison.pair import curve_frame
from moetrace.analytics.report.findings import Series, around_values, by_layer, by_zone
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.uncertainty.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from moetrace.analytics.report.comparison.pair import Pair
    from moetrace.analytics.report.section import Figure
    from moetrace.analytics.report.source import Source


@dataclass(frozen=True)
class Measure:
    """A number by layer that both runs have: its curve of CountCurves, its words, its query (columns layer, value)."""

    curve: str
    title: str
    said: str
    query: str
    reading: str
    formula: str


MEASURES = {
    "isolation": Measure(
        "isolation",
        "isolation (1 - Jaccard), 0 to 1",
        "Isolation",
        "select layer, avg(isolation) as value from jaccard(languages := [{languages}]) where {run} group by layer",
        "The part of two languages' most used experts that they do not share, the mean over language pairs.",
        "isolation = 1 - |A and B| / |A or B|, A and B the top-k experts of highest activation frequency",
    ),
    "divergence": Measure(
        "jsd_normalized",
        "divergence, 0 to 1",
        "Divergence",
        "select layer, jsd_normalized as value from divergence_by_layer(languages := [{languages}]) where {run}",
        "How differently two languages spread over all experts of a layer, the mean over language pairs.",
        "divergence = JSD(p1, p2) / (ln E - (H(p1) + H(p2)) / 2) (2510.04694, eq. 6 to 8)",
    ),
}
ROUNDING = 1e-9
ENTROPY = """select lang, layer, entropy_normalized as value
from routing_entropy(languages := [{languages}])
where {run}"""
PIVOT = """select lang, layer, {column} as value
from pivot_similarity(languages := [{languages}])
where {run}"""


def curve(pair: Pair, name: str) -> Section:
    """Return the section on a measure over language pairs: isolation or divergence."""
    measure = MEASURES[name]
    section = Section(
        name=name,
        title=measure.said,
        reading=f"{measure.reading} {_how(pair)}",
        formula=measure.formula,
        queries={name: _of_both(pair, measure.query)},
    )
    if reason := _reason(pair):
        return section.without_data(reason)
    frames = [source.frame(_asked(measure.query, pair, source) + " order by layer") for source in pair.sources]
    values = [frame["value"].to_numpy() for frame in frames]
    around: list[Curve | None] = [None, None]
    if pair.counts:
        around = [getattr(each, measure.curve).around(of) for each, of in zip(pair.counts, values, strict=True)]
    return _section(pair, section, name, measure.title, measure.said, values, around)


def entropies(pair: Pair) -> Section:
    """Return how much more or less evenly each language's tokens spread over the experts."""
    section = Section(
        name="entropy",
        title="Routing entropy",
        reading=(
            "1 means that tokens use all experts of a layer alike, 0 that all go to one; the mean over languages. "
            f"{_how(pair)}"
        ),
        formula="H(p) / ln E, p the activation shares",
        queries={"entropy": _of_both(pair, ENTROPY)},
    )
    if reason := next((source.reason_without_counts for source in pair.sources if source.reason_without_counts), None):
        return section.without_data(reason)
    known = (
        [
            {lang: curve.scaled(1 / np.log(source.record.num_experts)) for lang, curve in each.entropy.items()}
            for source, each in zip(pair.sources, pair.counts, strict=True)
        ]
        if pair.counts
        else [{}, {}]
    )
    return _of_languages(pair, section, "entropy", "normalised routing entropy, 0 to 1", "Entropy", ENTROPY, known)


def similarity(pair: Pair, column: str) -> Section:
    """Return how similarity to the pivot, or excess, differs: `column` of pivot_similarity."""
    pivot = pair.first.pivot or "the pivot"
    words = {
        "excess": f"How much more a text is routed like its own translation in {pivot} than like those of other texts.",
        "similarity": f"How alike the router spreads a text and its translation in {pivot}.",
    }
    section = Section(
        name=column,
        title=f"Excess over mispaired texts, {pivot}" if column == "excess" else f"Similarity to {pivot}",
        reading=f"{words[column]} The mean over languages. {_how(pair)}",
        formula="similarity and excess as in the view pivot_similarity (2510.04694, eq. 1 and 2)",
        queries={column: _of_both(pair, PIVOT, column=column)},
    )
    found = pair.translations
    if not found:
        return section.without_data(
            "Both runs need profiles and the same pivot language, with text ids that mean the same text in each "
            "language, and intervals must be asked for."
        )
    known = [getattr(each, column) for each in found]
    title = "excess" if column == "excess" else "similarity to the pivot, 0 to 1"
    return _of_languages(pair, section, column, title, title.partition(" ")[0].capitalize(), None, known)


def _of_languages(
    pair: Pair,
    section: Section,
    name: str,
    title: str,
    said: str,
    query: str | None,
    known: Sequence[Mapping[str, Curve]],
) -> Section:
    """Return a section about a number of languages: its mean over them by depth, and each language's difference.

    query: what gives the values of all texts; None: `known` has them
    """
    values: list[npt.NDArray[np.float64]] = []
    curves_of: list[dict[str, Curve]] = []
    for source, curves_ in zip(pair.sources, known, strict=True):
        layers = source.record.moe_layers
        if query is None:
            of_languages = dict(curves_)
        else:
            frame = source.frame(_asked(query, pair, source) + " order by all")
            of_languages = around_values(frame, "value", curves_, layers)
            by_depth = frame.group_by("layer").agg(pl.col("value").mean()).sort("layer")
            values.append(by_depth["value"].to_numpy())
        curves_of.append(of_languages)
    shared = [lang for lang in curves_of[0] if lang in curves_of[1]]
    if not shared:
        return _section(pair, section, name, title, said, values, [None, None])
    means = [Curve.mean_of([each[lang] for lang in shared]) for each in curves_of]
    if query is None:
        values = [mean.values for mean in means]
    made = _section(pair, section, name, title, said, values, [m.around(v) for m, v in zip(means, values, strict=True)])
    differences = Curve.side_by_side([curves_of[1][lang].mean().minus(curves_of[0][lang].mean()) for lang in shared])
    low, high = differences.interval()
    rows = pl.DataFrame({"lang": shared, "value": differences.values, "low": low, "high": high}).sort("value", "lang")
    moved = rows.filter((pl.col("low") > ROUNDING) | (pl.col("high") < -ROUNDING))
    finding = (
        f"{said} differs for {moved.height} of {len(shared)} languages (one in twenty would be by chance), most for "
        + _most(moved)
        if not moved.is_empty()
        else f"{said} differs for no language by more than other texts could make it, the mean over layers"
    )
    chart = figure(
        f"{name}_languages",
        f"{said} of {pair.names[1]} less {pair.names[0]}, a language a row, the mean over layers with its interval",
        by_language(f"{name}_languages", rows["lang"].to_list(), f"difference of {said.lower()}"),
        (f"{name}_languages",),
    )
    return made.with_data(
        {**made.datasets, f"{name}_languages": rows},
        findings=(*made.findings, f"{finding}."),
        figures=(*made.figures, chart),
    )


def _most(moved: pl.DataFrame) -> str:
    row = moved.sort(pl.col("value").abs(), "lang", descending=[True, False]).row(0, named=True)
    return f"{row['lang']} ({signed(row['value'])}, {signed(row['low'])} to {signed(row['high'])})"


def _section(
    pair: Pair,
    section: Section,
    name: str,
    title: str,
    said: str,
    values: list[npt.NDArray[np.float64]],
    around: list[Curve | None],
) -> Section:
    """Return a section with both curves and, layer by layer where layers are the same, their difference."""
    first, second = zip(values, around, strict=True)
    datasets = {name: pair.frame(first, second)}
    zones = ("zones",) if pair.same_layers else ()
    figures: list[Figure] = [
        figure(name, f"{said} of both runs by depth", both_curves(pair, name, title), (name, *zones)),
    ]
    series = [
        by_layer(source.record.moe_layers, v, c, ".3f")
        for source, v, c in zip(pair.sources, values, around, strict=True)
    ]
    findings = [_zone_findings(pair, said, series)]
    if pair.same_layers:
        layers = pair.first.record.moe_layers
        difference = around[1].minus(around[0]) if around[0] and around[1] else None
        rows = curve_frame("difference", pair.depths(pair.first), layers, values[1] - values[0], difference)
        datasets[f"{name}_difference"] = rows
        figures.append(
            figure(
                f"{name}_difference",
                f"{said} of {pair.names[1]} less {pair.names[0]}",
                difference_curve(pair, f"{name}_difference", "difference"),
                (f"{name}_difference", "zones"),
            )
        )
        findings.insert(0, _layer_findings(pair, said, rows))
    return section.with_data(datasets, findings=tuple(findings), figures=tuple(figures), notes=_notes(pair))


def _layer_findings(pair: Pair, said: str, rows: pl.DataFrame) -> str:
    largest = rows.sort(pl.col("value").abs(), "layer", descending=[True, False]).row(0, named=True)
    if rows["low"].null_count():
        return f"{said} differs most in layer {largest['layer']}, by {signed(largest['value'])}; no interval is known."
    apart = {
        "higher": rows.filter(pl.col("low") > ROUNDING)["layer"].to_list(),
        "lower": rows.filter(pl.col("high") < -ROUNDING)["layer"].to_list(),
    }
    parts = [
        f"{word} in layer{'s' if len(found) > 1 else ''} {listed([str(layer) for layer in found])}"
        for word, found in apart.items()
        if found
    ]
    if not parts:
        return f"{said} differs in no layer by more than other texts could make it."
    return (
        f"{said} of {pair.names[1]} is {' and '.join(parts)} than that of {pair.names[0]}; of {rows.height} layers "
        "one in twenty would be by chance."
    )


def _zone_findings(pair: Pair, said: str, series: list[Series]) -> str:
    zones = [by_zone(source, each) for source, each in zip(pair.sources, series, strict=True)]
    parts = []
    for name in zones[0]:
        if name not in zones[1]:
            continue
        first, second = zones[0][name], zones[1][name]
        difference = float(second.values[0] - first.values[0])
        if first.curve and second.curve:
            (low,), (high,) = second.curve.minus(first.curve).interval()
            parts.append(f"{name} {signed(difference)} ({signed(low)} to {signed(high)})")
        else:
            parts.append(f"{name} {signed(difference)}")
    return f"{said} of {pair.names[1]} less {pair.names[0]}, by zone: {', '.join(parts)}."


def signed(value: float) -> str:
    """Return a difference with its sign, to two digits; what is rounding alone is 0."""
    return "0" if abs(value) < ROUNDING else f"{value:+.2g}"


def _of_both(pair: Pair, query: str, **more: str) -> str:
    """Return the query of each run, one after the other."""
    return "\n\n".join(
        f"-- {name}\n{_asked(query, pair, source, **more)};"
        for name, source in zip(pair.names, pair.sources, strict=True)
    )


def _asked(query: str, pair: Pair, source: Source, **more: str) -> str:
    languages = ", ".join(literal(lang) for lang in pair.languages)
    return query.format(languages=languages, run=source.this_run, **more)


def _reason(pair: Pair) -> str | None:
    if len(pair.languages) < 2:
        return f"This compares languages, and the runs share {len(pair.languages)}."
    return next((source.reason_without_counts for source in pair.sources if source.reason_without_counts), None)


def _how(pair: Pair) -> str:
    axis = (
        ""
        if pair.same_layers
        else " Layers differ: both are laid over the same depth, from the first MoE layer to the last."
    )
    return f"Solid is {pair.names[0]}, dashed {pair.names[1]}, bands are 95% intervals.{axis}"


def _notes(pair: Pair) -> tuple[str, ...]:
    if pair.counts is None:
        reason = next((s.reason_without_intervals for s in pair.sources if s.reason_without_intervals), None)
        return (reason,) if reason else ()
    draws = (
        "the same draws of the same texts" if pair.paired else "draws of each run's own texts, which are not the same"
    )
    return (*pair.first.note_of(pair.counts[0].drawn), f"Differences are of {draws}.")

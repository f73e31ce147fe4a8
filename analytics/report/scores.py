"""Section: whether languages that are routed like the pivot are those on which the model does well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from moetrace.analytics.metrics.scores import use_scores
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.report.style import SERIES
from moetrace.analytics.report.vocabulary import LEVEL, correlation_bars

if TYPE_CHECKING:
    from moetrace.analytics.report.source import Source


def scores(source: Source, given: pl.DataFrame) -> Section:
    """Return the correlation of similarity to the pivot with a user's scores of languages, by layer.

    given: lang and score, a row a language. Raises MoetraceError where it is no such table.
    """
    query = f"""select layer, n, pearson, pearson_p, pearson_p_layers, spearman, spearman_p_layers
from score_correlation
where {source.this_run}
order by layer"""
    points = f"""select lang, avg(similarity) as similarity, any_value(score) as score
from pivot_similarity
inner join scores using (lang)
where {source.this_run}
group by lang
order by lang"""
    section = Section(
        name="scores",
        title="Scores and similarity",
        reading=(
            "Do languages that are routed like the pivot language score higher? Bars are the correlation over "
            "languages in each layer, filled where p, corrected for looking at all layers, is at most .05. Points "
            "are languages: their mean similarity over all layers against their score. A correlation over languages "
            "says nothing of causes: script and amount of training data go with both."
        ),
        formula=(
            "Pearson r over languages of similarity and score (2510.04694); p: scores permuted over languages, the "
            "largest |r| of all layers (Westfall & Young 1993)"
        ),
        queries={"scores": query, "score_points": points},
    )
    use_scores(source.connection, given)
    missing = next(
        (
            f"The run has no {table}, of which similarity to the pivot is made."
            for table in ("profiles", "sequences")
            if table not in source.record.tables
        ),
        None,
    )
    if missing or not source.pivot or not source.record.parallel:
        return section.without_data(missing or "The run has no pivot language whose texts have the same ids.")
    frame = source.frame(query)
    if frame.is_empty() or frame["n"].max() < 3:  # type: ignore[operator]
        return section.without_data(
            "A correlation needs three languages with a score and a similarity; there are fewer."
        )
    languages = source.frame(points)
    return section.with_data(
        {"scores": frame, "score_points": languages},
        findings=_findings(frame),
        figures=(
            figure(
                "scores",
                "Correlation of similarity to the pivot with the scores, by layer",
                correlation_bars(
                    "scores", source.record.moe_layers, "pearson", "pearson_p_layers", "Pearson r, -1 to 1"
                ),
                ("scores", "zones"),
            ),
            figure(
                "score_points",
                "Score and mean similarity to the pivot, a point a language",
                _points(),
                ("score_points",),
            ),
        ),
    )


def _points() -> alt.LayerChart:
    base = alt.Chart(alt.NamedData("score_points")).encode(
        x=alt.X("similarity:Q", title="similarity to the pivot, mean over layers", scale=alt.Scale(zero=False)),
        y=alt.Y("score:Q", title="score", scale=alt.Scale(zero=False)),
        tooltip=[
            alt.Tooltip("lang:N", title="language"),
            alt.Tooltip("similarity:Q", format=".3f"),
            alt.Tooltip("score:Q", format=".3f"),
        ],
    )
    names = base.mark_text(align="left", dx=7, fontSize=10.5).encode(text=alt.Text("lang:N"))
    dots = base.mark_point(filled=True, size=46, color=SERIES[0], opacity=1)
    return alt.LayerChart(layer=[dots, names]).properties(width="container", height=320)


def _findings(frame: pl.DataFrame) -> tuple[str, ...]:
    known = frame.drop_nulls("pearson_p_layers").sort("pearson_p_layers", "layer")
    if known.is_empty():
        return ("Scores or similarities do not vary, so that there is no correlation.",)
    best = known.row(0, named=True)
    settled = known.filter(pl.col("pearson_p_layers") <= LEVEL).height
    strongest = (
        f"The strongest correlation over {best['n']} languages is r = {best['pearson']:.2f} in layer {best['layer']} "
        f"(p = {best['pearson_p_layers']:.3f} among all layers)"
    )
    if settled:
        return (f"{strongest}; {settled} of {known.height} layers have p of at most .05.",)
    return (f"No layer's similarity goes with the scores by more than chance: {strongest[0].lower()}{strongest[1:]}.",)

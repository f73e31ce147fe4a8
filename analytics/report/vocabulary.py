"""Section: how much of the divergence of languages is that they have other tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from moetrace.analytics.database.quoting import literal
from moetrace.analytics.report.layer_charts import layer_axis, nearest_tooltip, on_zones, series_legend
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.report.style import SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.source import Source

MOST_DECISIONS = 60_000_000  # of the compared languages, which the controlled curve reads all of
MOST_LANGUAGES = 24
PERMUTATIONS = 199
LEVEL = 0.05
LEAST_SHARED = 0.05  # of the tokens of a pair of languages, for its controlled divergence to say anything
KINDS = {"plain": "all tokens", "controlled": "the same tokens as often"}


def vocabulary(source: Source) -> Section:
    """Return divergence beside that of the same token ids, and whether it goes with shared vocabulary."""
    languages, section = _compared(source), _section(source)
    if missing := _missing(source):
        return section.without_data(missing)
    decisions = source.frame(
        f"select coalesce(sum(tokens), 0)::bigint as tokens from languages where {source.this_run} "
        f"and lang in ({', '.join(map(literal, languages))})"
    )["tokens"][0]
    decisions *= len(source.record.moe_layers) * source.record.top_k
    if decisions > MOST_DECISIONS:
        return section.without_data(
            f"The {len(languages)} languages that would be compared have {decisions:,} routing decisions, all of "
            f"which this measure reads; a report reads up to {MOST_DECISIONS:,}. The query below, or "
            "metrics.divergence_vocabulary_controlled in Python, has it for fewer languages or layers."
        )
    layers = source.record.moe_layers
    frame = pl.concat([source.frame(_controlled(source, languages, layer)) for layer in layers]).sort("layer", "kind")
    correlation = source.frame(section.queries["vocabulary_r"])
    if frame.is_empty():
        return section.without_data(
            f"No two of the languages share {LEAST_SHARED:.0%} of their tokens, so there is too little to compare."
        )
    pairs = frame["pairs"].to_numpy().max()
    compared = (
        f"{len(languages)} of {len(source.languages)} languages, {pairs} pairs that share at least "
        f"{LEAST_SHARED:.0%} of their tokens. No interval is known for the controlled curve; it is too high where "
        "texts are few."
    )
    return section.with_data(
        {"vocabulary": frame, "vocabulary_r": correlation},
        findings=_findings(frame, correlation),
        notes=(compared,),
        figures=(
            figure(
                "vocabulary",
                "Divergence by layer: of all tokens, and where both languages have the same tokens as often",
                _curves(layers),
                ("vocabulary", "zones"),
            ),
            figure(
                "vocabulary_r",
                "Correlation of shared vocabulary and divergence over language pairs, by layer",
                correlation_bars("vocabulary_r", layers, "r", "p_value", "Pearson r, -1 to 1"),
                ("vocabulary_r", "zones"),
            ),
        ),
    )


def _section(source: Source) -> Section:
    languages = _compared(source)
    listed_languages = ", ".join(map(literal, languages))
    correlation = f"""select layer, pairs, r_token_normalized as r, p_token as p_value
from divergence_vs_vocabulary(languages := [{listed_languages}], permutations := {PERMUTATIONS})
where {source.this_run}
order by layer"""
    return Section(
        name="vocabulary",
        title="Vocabulary",
        reading=(
            "Languages that share no tokens differ in the first layers whatever the router has learned. The dashed "
            "line gives every token id the same weight in both languages of a pair: what is left is that they route "
            "the same tokens otherwise. Bars say whether pairs that share more of their tokens diverge less (r below "
            "0); filled ones have p of at most .05 by Mantel's test."
        ),
        formula=(
            "controlled: JSD of both languages' shares with token id v weighing min(f_a(v), f_b(v)) in both; r: "
            "Pearson's over language pairs, of normalised divergence and token overlap (2605.29714); p: Mantel "
            "(1967), of JSD"
        ),
        queries={
            "vocabulary": _controlled(source, languages, None),
            "vocabulary_r": correlation,
        },
    )


def _compared(source: Source) -> list[str]:
    languages = source.drawn
    return languages if len(languages) <= MOST_LANGUAGES else languages[:: -(-len(languages) // MOST_LANGUAGES)]


def _missing(source: Source) -> str | None:
    if source.reason_without_comparison:
        return source.reason_without_comparison
    if lacks := [table for table in ("tokens", "routes") if table not in source.record.tables]:
        return f"The run has no {listed(lacks)}, which this measure needs: which token went to which expert."
    return None


def _controlled(source: Source, languages: Sequence[str], layer: int | None) -> str:
    # A layer at a time: memory grows with token ids x experts of what is asked for at once.
    layers = "null" if layer is None else f"[{layer}]"
    return f"""unpivot (
    select layer, count(*) as pairs, avg(jsd) as plain, avg(jsd_controlled) as controlled
    from divergence_vocabulary_controlled(languages := [{", ".join(map(literal, languages))}], layers := {layers})
    where {source.this_run} and token_share >= {LEAST_SHARED}
    group by layer
) on plain, controlled into name kind value divergence"""


def _curves(layers: Sequence[int]) -> alt.LayerChart:
    scale = alt.Scale(domain=list(KINDS), range=[SERIES[0], SERIES[1]])
    names = series_legend(KINDS)
    colour = alt.Color("kind:N", scale=scale, title=None, legend=names)
    base = alt.Chart(alt.NamedData("vocabulary")).encode(
        x=layer_axis(layers), y=alt.Y("divergence:Q", title="JSD, nats", scale=alt.Scale(zero=True)), color=colour
    )
    dashes = alt.StrokeDash(
        "kind:N", scale=alt.Scale(domain=list(KINDS), range=[[1, 0], [6, 3]]), title=None, legend=names
    )
    hover = alt.selection_point(
        name="hover", on="pointerover", clear="pointerout", fields=["layer"], nearest=True, empty=False
    )
    points = (
        base.mark_point(filled=True, size=42, opacity=1)
        .encode(tooltip=nearest_tooltip({"tokens": "kind", "layer": "layer"}, {"JSD": "divergence"}, ".4f"))
        .add_params(hover)
    )
    return on_zones(layers, base.mark_line(strokeWidth=2.2, strokeJoin="round").encode(strokeDash=dashes), points)


def correlation_bars(name: str, layers: Sequence[int], r: str, p: str, title: str) -> alt.LayerChart:
    """Return a correlation by layer as bars from 0, filled where its p-value is at most LEVEL."""
    tip = [
        alt.Tooltip("layer:Q"),
        alt.Tooltip(f"{r}:Q", title="r", format=".3f"),
        alt.Tooltip(f"{p}:Q", title="p", format=".3f"),
    ]
    bars = (
        alt.Chart(alt.NamedData(name))
        .mark_bar(stroke=SERIES[0], strokeWidth=1.2, width=max(2, min(18, 560 // (2 * len(layers)))))
        .encode(
            x=layer_axis(layers),
            y=alt.Y(f"{r}:Q", title=title, scale=alt.Scale(domain=[-1, 1])),
            color=alt.condition(f"datum.{p} <= {LEVEL}", alt.value(SERIES[0]), alt.value("transparent")),
            tooltip=tip,
        )
    )
    return on_zones(layers, bars).properties(height=200)


def _findings(frame: pl.DataFrame, correlation: pl.DataFrame) -> tuple[str, ...]:
    wide = frame.pivot("kind", index="layer", values="divergence").drop_nulls().sort("layer")
    found = []
    if not wide.is_empty():
        left = wide.with_columns(left=pl.col("controlled") / pl.col("plain")).drop_nans("left").sort("left")
        least, most = left.row(0, named=True), left.row(-1, named=True)
        found.append(
            f"Where both languages of a pair have the same tokens as often, {least['left']:.0%} of their divergence "
            f"is left in layer {least['layer']} and {most['left']:.0%} in layer {most['layer']}; what is gone was "
            "that they have other tokens."
        )
    known = correlation.drop_nulls("r")
    settled = known.filter((pl.col("p_value") <= LEVEL) & (pl.col("r") < 0))["layer"].to_list()
    if not known.is_empty():
        found.append(
            f"Pairs that share more tokens diverge less in {len(settled)} of {known.height} layers (p at most .05 in "
            "each" + (f": {listed([str(layer) for layer in settled])})." if settled else ").")
        )
    return tuple(found)

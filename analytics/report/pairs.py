"""Section: every language against every other, for all layers, a zone or one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import polars as pl

from moetrace.analytics.report.findings import Series
from moetrace.analytics.report.ordering import similarity_matrix, similarity_order
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.report.style import FAINT, SEQUENTIAL
from moetrace.analytics.uncertainty.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.source import Source

MOST_ROWS = 150_000  # of pairs x layers on the page; beyond it only the means over zones and over all layers stay
MOST_NUMBERED = 14  # languages up to which a cell says its value
MOST_LEVEL = 8  # languages up to which the names below the map are level
MARGIN = 110


def pairs(source: Source) -> Section:
    """Return the language x language map of shared experts and of divergence."""
    count = len(source.languages)
    layers = source.record.moe_layers
    each_layer = count * (count - 1) // 2 * len(layers) <= MOST_ROWS
    query = _query(source, each_layer=each_layer)
    section = Section(
        name="pairs",
        title="Languages against languages",
        reading=(
            "Stronger colours mean routed more alike. Shared experts looks only at the experts a language uses most; "
            "divergence looks at the whole distribution over experts, and 0 means that both languages use it alike. "
            "Languages stand in the order in which they cluster, so families show as blocks along the diagonal."
        ),
        formula=(
            "Jaccard = |A and B| / |A or B| of the two sets of top-k experts; divergence = JSD(p1, p2) / "
            "(ln E - (H(p1) + H(p2)) / 2) of the activation shares (2605.29714; 2510.04694, eq. 6 to 8)"
        ),
        queries={"pairs": query},
    )
    if source.reason_without_comparison:
        return section.without_data(source.reason_without_comparison)
    frame = source.frame(query)
    overall = frame.filter(pl.col("layers") == "all layers")
    order = similarity_order(source.languages, similarity_matrix(overall, source.languages))
    choices = ["all layers", *(f"{zone.name} layers" for zone in source.zones)]
    if each_layer:
        choices += [f"layer {layer}" for layer in layers]
    left_out = (
        f"{count} languages make {count * (count - 1) // 2:,} pairs a layer: the page holds their means over zones and "
        "over all layers. For single layers, group the query by layer, lang_a and lang_b."
    )
    step = max(8, min(56, 900 // count))
    return section.with_data(
        {"pairs": frame},
        findings=_findings(source, overall),
        notes=() if each_layer else (left_out,),
        figures=(
            figure(
                "pairs",
                "Routing similarity of every pair of languages",
                matrix("pairs", order, choices, step),
                ("pairs",),
                renderer="canvas",
                max_width=max(560, step * count + MARGIN),
            ),
        ),
    )


def _query(source: Source, *, each_layer: bool) -> str:
    """Return the means over all layers, over zones and, if asked for, every layer's values, named by `layers`."""
    part, sets = ("'layer ' || layer, ", ", (layer, lang_a, lang_b)") if each_layer else ("", "")
    return f"""select
    coalesce({part}zone || ' layers', 'all layers') as layers,
    lang_a,
    lang_b,
    avg(jaccard) as jaccard,
    avg(jsd_normalized) as divergence
from jaccard
inner join divergence using (run, layer, lang_a, lang_b)
inner join zones using (run, layer)
where {source.this_run}
group by grouping sets ((lang_a, lang_b), (zone, lang_a, lang_b){sets})
order by layers, lang_a, lang_b"""


def matrix(name: str, languages: Sequence[str], choices: Sequence[str], step: int) -> alt.LayerChart:
    """Return the square map of dataset `name` (a pair once) with selectors of the measure and of the layers."""
    measure = alt.param(
        name="measure",
        value="jaccard",
        bind=alt.binding_radio(
            options=["jaccard", "divergence"], labels=["shared experts (Jaccard)", "divergence"], name="Compare by"
        ),
    )
    layers = alt.param(name="layers", value=choices[0], bind=alt.binding_select(options=list(choices), name="Layers"))
    axis = alt.Axis(
        title=None, labelFontSize=min(11, step - 1), labelOverlap=True, ticks=False, domain=False, labelAngle=0
    )
    upright = axis.copy(deep=True)
    upright.labelAngle = 0 if len(languages) <= MOST_LEVEL else -90
    rows = alt.Scale(domain=list(languages))
    base = (
        alt.Chart(alt.NamedData(name))
        .transform_filter("datum.layers === layers")
        .transform_calculate(value="measure === 'jaccard' ? datum.jaccard : datum.divergence")
    )
    colour = alt.Color(
        "value:Q",
        title=None,
        scale=alt.Scale(
            range=list(SEQUENTIAL), zero=False, nice=False, reverse=alt.ExprRef("measure === 'divergence'")
        ),
        legend=alt.Legend(format=".3~g"),
    )
    tooltip = [
        alt.Tooltip("lang_a:N", title="language"),
        alt.Tooltip("lang_b:N", title="and"),
        alt.Tooltip("layers:N"),
        alt.Tooltip("jaccard:Q", title="Jaccard", format=".3f"),
        alt.Tooltip("divergence:Q", format=".3f"),
    ]
    marks: list[alt.Chart] = []
    for across, down in (("lang_a", "lang_b"), ("lang_b", "lang_a")):
        place = base.encode(
            x=alt.X(f"{across}:N", axis=upright, scale=rows), y=alt.Y(f"{down}:N", axis=axis, scale=rows)
        )
        marks.append(place.mark_rect().encode(color=colour, tooltip=tooltip))
        if len(languages) <= MOST_NUMBERED:
            ink = alt.condition("luminance(scale('color', datum.value)) < 0.4", alt.value("#fff"), alt.value("#1c2733"))
            marks.append(place.mark_text(fontSize=10.5).encode(text=alt.Text("value:Q", format=".2f"), color=ink))
    diagonal = (
        alt.Chart(alt.InlineData(values=[{"lang": lang} for lang in languages]))
        .mark_rect(color=FAINT, opacity=0.35)
        .encode(x=alt.X("lang:N", axis=upright, scale=rows), y=alt.Y("lang:N", axis=axis, scale=rows))
    )
    title = alt.TitleParams(
        text=alt.ExprRef(
            "(measure === 'jaccard' ? 'Jaccard similarity of the expert sets, 0 to 1'"
            " : 'entropy-normalised Jensen-Shannon divergence, 0 to 1') + ', ' + layers"
        )
    )
    return (
        alt.LayerChart(layer=[diagonal, *marks])
        .add_params(measure, layers)
        .properties(width="container", height=step * len(languages), title=title)
    )


def _findings(source: Source, overall: pl.DataFrame) -> tuple[str, ...]:
    values = {
        (lang_a, lang_b): value for lang_a, lang_b, value in overall.select("lang_a", "lang_b", "jaccard").iter_rows()
    }
    known = {pair: curve for pair, curve in (source.counts.jaccard if source.counts else {}).items() if pair in values}
    pairs = list(known or values)
    numbers = np.array([values[pair] for pair in pairs], dtype=np.float64)
    series = Series(
        names=[" and ".join(pair) for pair in pairs],
        values=numbers,
        curve=Curve.side_by_side(list(known.values())).around(numbers) if known else None,
        among=f", of the {len(pairs)} pairs with intervals" if len(pairs) < len(values) else "",
    )
    if len(pairs) == 1:
        return (f"{series.names[0]} have a mean Jaccard similarity of {series.said(0, '{} ({} to {})')}.",)
    return (
        series.ends(
            "Over all layers (mean Jaccard), the most experts are shared by",
            "the fewest by",
            "Over all layers (mean Jaccard), no pair shares more experts than another, as far as these texts can tell",
        ),
    )

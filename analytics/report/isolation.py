"""Section: how far apart languages are routed, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from moetrace.analytics.report.layer_charts import layer_axis, nearest_tooltip, on_zones
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.report.style import FAINT, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.source import Source


def isolation(source: Source) -> Section:
    """Return the mean and the spread over language pairs of 1 - Jaccard, per layer."""
    query = f"""select
    layer,
    avg(isolation) as mean,
    min(isolation) as lowest,
    quantile_cont(isolation, 0.25) as lower_quartile,
    quantile_cont(isolation, 0.75) as upper_quartile,
    max(isolation) as highest,
    -- Of pairs that are equally far apart the first by name: the same page every time.
    arg_min(lang_a || ' and ' || lang_b, (isolation, lang_a, lang_b)) as closest,
    arg_min(lang_a || ' and ' || lang_b, (-isolation, lang_a, lang_b)) as furthest
from jaccard
where {source.this_run}
group by layer
order by layer"""
    top_k = source.record.top_k
    section = Section(
        name="isolation",
        title="Isolation by layer",
        reading=(
            f"For each language, take the {top_k} experts of a layer that its tokens use most. Isolation is the part "
            "of two languages' experts that they do not share: 0 means the same experts, 1 means none in common. The "
            "line is the mean over all pairs of languages, the dark band holds the middle half of the pairs, the light "
            "band all of them."
        ),
        formula=f"isolation = 1 - |A and B| / |A or B|, A and B the {top_k} experts of highest activation frequency",
        queries={"isolation": query},
    )
    if source.reason_without_comparison:
        return section.without_data(source.reason_without_comparison)
    frame = source.frame(query)
    return section.with_data(
        {"isolation": frame},
        findings=_findings(source, frame),
        figures=(
            figure(
                "isolation",
                "Isolation of language pairs by layer: mean, middle half and range",
                spread("isolation", source.record.moe_layers, "isolation (1 - Jaccard), 0 to 1"),
                ("isolation", "zones"),
            ),
        ),
    )


def spread(name: str, layers: Sequence[int], title: str) -> alt.LayerChart:
    """Return the mean of dataset `name` per layer over its quartiles and its range."""
    base = alt.Chart(alt.NamedData(name)).encode(x=layer_axis(layers))
    y = alt.Y("lowest:Q", title=title, scale=alt.Scale(zero=False, nice=True))
    whole = base.mark_area(color=SERIES[0], opacity=0.10).encode(y=y, y2="highest:Q")
    middle = base.mark_area(color=SERIES[0], opacity=0.20).encode(y="lower_quartile:Q", y2="upper_quartile:Q")
    line = base.mark_line(color=SERIES[0], strokeWidth=2.4, strokeJoin="round").encode(y="mean:Q")
    hover = alt.selection_point(
        name="hover", on="pointerover", clear="pointerout", fields=["layer"], nearest=True, empty=False
    )
    points = (
        base.mark_point(filled=True, color=SERIES[0], size=42, opacity=1)
        .encode(
            y="mean:Q",
            tooltip=nearest_tooltip(
                {"layer": "layer", "least isolated pair": "closest", "most isolated pair": "furthest"},
                {
                    "mean": "mean",
                    "lowest": "lowest",
                    "lower quartile": "lower_quartile",
                    "upper quartile": "upper_quartile",
                    "highest": "highest",
                },
            ),
        )
        .add_params(hover)
    )
    rule = base.mark_rule(color=FAINT).encode(opacity=alt.condition(hover, alt.value(1.0), alt.value(0.0)))
    return on_zones(layers, rule, whole, middle, line, points)


def _findings(source: Source, frame: pl.DataFrame) -> tuple[str, ...]:
    layers = frame.sort("mean")
    least, most = layers.row(0, named=True), layers.row(-1, named=True)
    means = [
        (zone.name, float(frame.filter(pl.col("layer").is_between(zone.first, zone.last))["mean"].to_numpy().mean()))
        for zone in source.zones
    ]
    extremes = (
        f"Languages are routed most apart in layer {most['layer']} (mean isolation {most['mean']:.2f}) and most "
        f"alike in layer {least['layer']} ({least['mean']:.2f})."
    )
    return extremes, f"Mean isolation by zone: {', '.join(f'{name} {mean:.2f}' for name, mean in means)}."

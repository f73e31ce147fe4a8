"""Section: how far apart languages are routed, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from moetrace.analytics.report.bands import band_frame, chance_line, floor_band, interval_band
from moetrace.analytics.report.findings import Series, by_layer, by_zone, within_floor, zones_said
from moetrace.analytics.report.layer_charts import layer_axis, nearest_tooltip, on_zones
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.report.style import FAINT, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.report.source import Source
    from moetrace.analytics.uncertainty.curves import Curve


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
    arg_min(lang_a || ' and ' || lang_b, (-isolation, lang_a, lang_b)) as furthest,
    avg(1 - expected) as chance
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
            "band all of them. The dashed line is what sets drawn at random would show. Where intervals are known, the "
            "narrow band is that of the mean, and the grey one at the foot what two samples of one language would show."
        ),
        formula=f"isolation = 1 - |A and B| / |A or B|, A and B the {top_k} experts of highest activation frequency",
        queries={"isolation": query},
    )
    if source.reason_without_comparison:
        return section.without_data(source.reason_without_comparison)
    frame = source.frame(query)
    drawn = source.counts
    mean = drawn.isolation.around(frame["mean"].to_numpy()) if drawn else None
    floor = drawn.isolation_floor if drawn else None
    layers = source.record.moe_layers
    datasets = {"isolation": frame}
    if mean and floor:
        datasets |= {"isolation_interval": band_frame(layers, mean), "isolation_floor": band_frame(layers, floor)}
    return section.with_data(
        datasets,
        findings=_findings(source, by_layer(layers, frame["mean"].to_numpy(), mean), floor),
        notes=source.note_of(drawn.drawn if drawn else None),
        figures=(
            figure(
                "isolation",
                "Isolation of language pairs by layer: mean, middle half and range",
                spread("isolation", layers, "isolation (1 - Jaccard), 0 to 1", known=drawn is not None),
                (*datasets, "zones"),
            ),
        ),
    )


def spread(name: str, layers: Sequence[int], title: str, *, known: bool) -> alt.LayerChart:
    """Return the mean of dataset `name` per layer over its quartiles and its range, with the line of chance.

    known: whether there are datasets `<name>_interval` and `<name>_floor` to draw, too
    """
    base = alt.Chart(alt.NamedData(name)).encode(x=layer_axis(layers))
    y = alt.Y("lowest:Q", title=title, scale=alt.Scale(zero=known, nice=True))
    whole = base.mark_area(color=SERIES[0], opacity=0.10).encode(y=y, y2=alt.Y2("highest:Q"))
    middle = base.mark_area(color=SERIES[0], opacity=0.20).encode(
        y=alt.Y("lower_quartile:Q"), y2=alt.Y2("upper_quartile:Q")
    )
    line = base.mark_line(color=SERIES[0], strokeWidth=2.4, strokeJoin="round").encode(y=alt.Y("mean:Q"))
    hover = alt.selection_point(
        name="hover", on="pointerover", clear="pointerout", fields=["layer"], nearest=True, empty=False
    )
    points = (
        base.mark_point(filled=True, color=SERIES[0], size=42, opacity=1)
        .encode(
            y=alt.Y("mean:Q"),
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
    bands = (*floor_band(f"{name}_floor", layers), interval_band(f"{name}_interval", layers)) if known else ()
    return on_zones(layers, rule, whole, middle, *bands, *chance_line(name, layers), line, points)


def _findings(source: Source, means: Series, floor: Curve | None) -> tuple[str, ...]:
    found = [
        means.ends(
            "Languages are routed most apart in",
            "most alike in",
            "No layer routes languages more apart than another, as far as these texts can tell",
        )
    ]
    found.append(f"Mean isolation by zone: {zones_said(by_zone(source, means))}.")
    if floor:
        within = within_floor(means, floor)
        found.append(
            f"Two samples of one language would be up to {floor.interval()[1].max():.2f} apart; "
            + (
                f"in {listed(within)} languages are not further apart than that."
                if within
                else "in every layer languages are further apart than that."
            )
        )
    return tuple(found)

"""Section: where in the depth of the model languages converge, and where they diverge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from moetrace.analytics.report.bands import band_frame, floor_band, interval_band
from moetrace.analytics.report.findings import by_layer, by_zone, within_floor, zones_said
from moetrace.analytics.report.layer_charts import layer_axis, nearest_tooltip, on_zones
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.report.style import MUTED, SERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from moetrace.analytics.report.findings import Series
    from moetrace.analytics.report.source import Source
    from moetrace.analytics.uncertainty.curves import Curve


def divergence(source: Source) -> Section:
    """Return the mean divergence of language pairs by layer over its noise floor, with the zones it changes in."""
    query = f"""select layer, pairs, jsd_normalized as divergence, jsd, noise
from divergence_by_layer
where {source.this_run}
order by layer"""
    zones = f"""select zone, min(layer) as first, max(layer) as last
from zones_auto
where {source.this_run}
group by zone
order by first"""
    section = Section(
        name="divergence",
        title="Convergence and divergence",
        reading=(
            "Divergence compares how two languages spread over all experts of a layer, not only over the most used "
            "ones: 0 is the same use, 1 no expert in common. The line is the mean over all pairs; where intervals are "
            "known, the narrow band is that of the mean, and the grey one what two samples of one language would show. "
            "Shaded are the fixed zones; dashed lines stand where this run's own curve changes most."
        ),
        formula=(
            "divergence = JSD(p1, p2) / (ln E - (H(p1) + H(p2)) / 2), the mean over language pairs (2605.29714; "
            "2510.04694, eq. 6 to 8); automatic zones: the three stretches of layers around whose means the curve "
            "varies least"
        ),
        queries={"divergence": query, "zones_auto": zones},
    )
    if source.reason_without_comparison:
        return section.without_data(source.reason_without_comparison)
    frame, auto = source.frame(query), source.frame(zones)
    layers = source.record.moe_layers
    drawn = source.counts
    mean = drawn.jsd_normalized.around(frame["divergence"].to_numpy()) if drawn else None
    floor = drawn.jsd_normalized_floor if drawn else None
    datasets = {"divergence": frame, "zones_auto": auto}
    if mean and floor:
        datasets |= {"divergence_interval": band_frame(layers, mean), "divergence_floor": band_frame(layers, floor)}
    series = by_layer(layers, frame["divergence"].to_numpy(), mean, ".3f")
    return section.with_data(
        datasets,
        findings=_findings(source, series, floor, auto),
        notes=source.note_of(drawn.drawn if drawn else None),
        figures=(
            figure(
                "divergence",
                "Divergence of language pairs by layer",
                _curve(layers, known=drawn is not None),
                (*datasets, "zones"),
            ),
        ),
    )


def _curve(layers: Sequence[int], *, known: bool) -> alt.LayerChart:
    base = alt.Chart(alt.NamedData("divergence")).encode(
        x=layer_axis(layers), y=alt.Y("divergence:Q", title="divergence, 0 to 1", scale=alt.Scale(zero=True, nice=True))
    )
    line = base.mark_line(color=SERIES[0], strokeWidth=2.4, strokeJoin="round")
    hover = alt.selection_point(
        name="hover", on="pointerover", clear="pointerout", fields=["layer"], nearest=True, empty=False
    )
    numbers = {"divergence": "divergence", "JSD, nats": "jsd"}
    points = (
        base.mark_point(filled=True, color=SERIES[0], size=42, opacity=1)
        .encode(tooltip=nearest_tooltip({"layer": "layer"}, numbers))
        .add_params(hover)
    )
    changes = (
        alt.Chart(alt.NamedData("zones_auto"))
        .transform_filter("datum.first > " + str(layers[0]))
        .transform_calculate(edge="datum.first - 0.5")
        .mark_rule(color=MUTED, strokeDash=[5, 4], strokeWidth=1.2)
        .encode(x=layer_axis(layers).copy(deep=True))
    )
    changes.encoding.x.shorthand = "edge:Q"
    bands = (*floor_band("divergence_floor", layers), interval_band("divergence_interval", layers)) if known else ()
    return on_zones(layers, *bands, changes, line, points)


def _findings(source: Source, curve: Series, floor: Curve | None, auto: pl.DataFrame) -> tuple[str, ...]:
    found = [
        curve.ends(
            "Languages diverge most in",
            "converge most in",
            "Divergence does not change with depth, as far as these texts can tell",
        )
    ]
    zones = by_zone(source, curve)
    if {"shallow", "middle", "deep"} <= zones.keys():
        found.append(f"{_shape(zones)} (fixed zones: {zones_said(zones)}).")
    if auto.height > 1:
        stretches = [
            f"{zone} {first} to {last}" if first < last else f"{zone} {first}" for zone, first, last in auto.iter_rows()
        ]
        found.append(f"Cut where the curve itself changes most: {', '.join(stretches)}.")
    if within := within_floor(curve, floor):
        found.append(f"In {listed(within)} it does not exceed what two samples of one language show.")
    return tuple(found)


def _shape(zones: dict[str, Series]) -> str:
    """Return whether middle layers are more alike than those around them, as papers report of large models."""
    middle = zones["middle"]
    lower, unsettled = [], []
    for name in ("shallow", "deep"):
        difference = float(zones[name].values[0] - middle.values[0])
        curve = zones[name].curve
        if curve and middle.curve:
            (low,), (high,) = curve.minus(middle.curve).interval()
            if low <= 0 <= high:
                unsettled.append(name)
                continue
        if difference > 0:
            lower.append(name)
    if unsettled:
        return f"Whether middle layers route languages more alike than {' and '.join(unsettled)} ones is not settled"
    if len(lower) == 2:
        return "Languages converge in the middle layers and diverge at both ends"
    if lower:
        return f"Middle layers route languages more alike than {lower[0]} ones, but not than those at the other end"
    return "Languages do not converge in the middle layers"

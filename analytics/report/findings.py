"""Sentences of findings: values with their intervals, and no difference that other texts could undo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.report.names import listed
from moetrace.analytics.uncertainty.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from moetrace.analytics.report.source import Source


@dataclass(frozen=True)
class Series:
    """Values of things that have names, such as layers or languages, and how they vary where that is known.

    - values: [N]
    - curve: the same values with their replicates, None where nothing can be resampled
    """

    names: Sequence[str]
    values: npt.NDArray[np.float64]
    curve: Curve | None
    form: str = ".2f"
    among: str = ""  # which of all things these are, at the end of a sentence

    def said(self, place: int, form: str = "{}, {} to {}") -> str:
        """Return a value with its interval: 0.56, 0.55 to 0.58."""
        if self.curve is None:
            return format(self.values[place], self.form)
        (low,), (high,) = self.curve.at([place]).interval()
        return form.format(*(format(value, self.form) for value in (self.values[place], low, high)))

    def mean(self, places: Sequence[int]) -> Series:
        """Return the mean over some places, as a series of one."""
        values = self.values[list(places)].mean(keepdims=True)
        return replace(self, names=[""], values=values, curve=self.curve.at(places).mean() if self.curve else None)

    def highest(self) -> int:
        """Return the place of the highest value, of equal ones the first."""
        return int(np.nanargmax(self.values))

    def lowest(self) -> int:
        """Return the place of the lowest value, of equal ones the first."""
        return int(np.nanargmin(self.values))

    def like(self, place: int) -> list[int]:
        """Return the other places whose difference from this one has 0 in its interval; none where that is unknown."""
        if self.curve is None:
            return []
        low, high = self.curve.minus(self.curve.at([place])).interval()
        return [other for other in np.flatnonzero((low <= 0) & (high >= 0)).tolist() if other != place]

    def around_zero(self) -> list[str]:
        """Return the names of the values whose interval holds 0; none where intervals are unknown."""
        if self.curve is None:
            return []
        low, high = self.curve.interval()
        return [name for name, least, most in zip(self.names, low, high, strict=True) if least <= 0 <= most]

    def named(self, place: int, more: Sequence[int] = ()) -> str:
        """Return the value at a place by its name, and which others it cannot be told from."""
        near = [self.names[other] for other in more]
        return f"{self.names[place]} ({self.said(place)}{'; cannot be told from ' + listed(near) if near else ''})"

    def ends(self, high: str, low: str, same: str) -> str:
        """Return a sentence about the highest and the lowest value, or `same` where they cannot be told apart."""
        top, bottom = self.highest(), self.lowest()
        near_top, near_bottom = self.like(top), self.like(bottom)
        if top == bottom or bottom in near_top:
            lowest, highest = (self.said(at, "{} ({} to {})") for at in (bottom, top))
            return f"{same}: {lowest} at the lowest, {highest} at the highest{self.among}."
        return f"{high} {self.named(top, near_top)} and {low} {self.named(bottom, near_bottom)}{self.among}."


def by_layer(layers: Sequence[int], values: npt.NDArray[np.float64], curve: Curve | None, form: str = ".2f") -> Series:
    """Return the values of layers; their names are "layer 3"."""
    return Series([f"layer {layer}" for layer in layers], values, curve, form)


def by_zone(source: Source, series: Series) -> dict[str, Series]:
    """Return the mean of a series by layer over each zone, by the zone's name, in the order of depth."""
    layers = source.record.moe_layers
    return {
        zone.name: series.mean([at for at, layer in enumerate(layers) if zone.first <= layer <= zone.last])
        for zone in source.zones
    }


def zones_said(zones: Mapping[str, Series]) -> str:
    """Return the means of zones with their intervals as a list."""
    return ", ".join(f"{name} {zone.said(0, '{} ({} to {})')}" for name, zone in zones.items())


def within_floor(series: Series, floor: Curve | None) -> list[str]:
    """Return the names of the values that may lie within what one language alone shows; none where that is unknown."""
    if series.curve is None or floor is None:
        return []
    low, most = series.curve.interval()[0], floor.interval()[1]
    return [name for name, least, noise in zip(series.names, low, most, strict=True) if least <= noise]


def with_intervals(frame: pl.DataFrame, value: str, curves: Mapping[str, Curve], layers: Sequence[int]) -> pl.DataFrame:
    """Return a frame of lang and layer with `low` and `high`, the interval of `value`; null where there is none."""
    found = []
    for lang, curve in around_values(frame, value, curves, layers).items():
        low, high = curve.interval()
        found.append(pl.DataFrame({"lang": lang, "layer": list(layers), "low": low, "high": high}))
    known = (
        pl.concat(found)
        if found
        else pl.DataFrame(schema={"lang": pl.String, "layer": pl.Int64, "low": pl.Float64, "high": pl.Float64})
    )
    return frame.join(
        known.cast({"layer": frame["layer"].dtype}), on=["lang", "layer"], how="left", maintain_order="left"
    )


def around_values(
    frame: pl.DataFrame, value: str, curves: Mapping[str, Curve], layers: Sequence[int]
) -> dict[str, Curve]:
    """Return curves around the values of a frame of lang and layer; of languages that have a value in each layer."""
    found = {}
    for (lang,), rows in frame.drop_nulls(value).group_by("lang", maintain_order=True):
        if lang in curves and rows["layer"].n_unique() == len(layers):
            found[str(lang)] = curves[str(lang)].around(rows.sort("layer")[value].to_numpy())
    return found


def by_language(
    frame: pl.DataFrame, value: str, curves: Mapping[str, Curve] | None, layers: Sequence[int], form: str
) -> Series:
    """Return the mean over layers of each language; of those that have intervals alone where any has."""
    known = around_values(frame, value, curves, layers) if curves else {}
    if known:
        curve = Curve.side_by_side([each.mean() for each in known.values()])
        some = f", of the {len(known)} languages with intervals" if len(known) < frame["lang"].n_unique() else ""
        return Series(list(known), curve.values, curve, form, some)
    means = frame.drop_nulls(value).group_by("lang").agg(pl.col(value).mean()).sort("lang")
    return Series(means["lang"].to_list(), means[value].to_numpy(), None, form)


def mean_over_languages(
    frame: pl.DataFrame, value: str, curves: Mapping[str, Curve] | None, layers: Sequence[int], form: str
) -> Series:
    """Return the mean over languages of each layer, with the deviations of the languages that have intervals."""
    means = frame.drop_nulls(value).group_by("layer").agg(pl.col(value).mean()).sort("layer")
    known = around_values(frame, value, curves, layers) if curves else {}
    values = means[value].to_numpy()
    curve = Curve.mean_of(list(known.values())).around(values) if known and len(values) == len(layers) else None
    return by_layer(means["layer"].to_list(), values, curve, form)

"""Sentences of findings: values with their intervals, and no difference that other texts could undo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from moetrace.analytics.report.source import Source
    from moetrace.analytics.uncertainty.curves import Curve

MOST_NAMED = 5


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
            return f"{same}: {lowest} at the lowest, {highest} at the highest."
        return f"{high} {self.named(top, near_top)} and {low} {self.named(bottom, near_bottom)}."


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words, the first few of many."""
    if len(names) > MOST_NAMED:
        return f"{', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


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

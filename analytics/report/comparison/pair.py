"""Two runs to compare: what they share, and curves of both on one axis with draws of the same texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.database.quoting import literal
from moetrace.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from moetrace.analytics.report.source import Source
    from moetrace.analytics.uncertainty.curves import CountCurves, Curve, TranslationCurves
    from moetrace.store.read.reader import Store

    Layered = tuple[npt.NDArray[np.float64], Curve | None]  # values by layer, and the same with replicates

SECOND_SEED = 1  # where the runs' texts are not the same: draws of their own


@dataclass(frozen=True)
class Pair:
    """Two runs, `first` and `second`, of the languages that both have.

    - names: what they are called on the page
    - paired: whether draws are of the same texts in both, so that differences are of the same texts, too
    """

    first: Source
    second: Source
    names: tuple[str, str]

    @property
    def sources(self) -> tuple[Source, Source]:
        """Return both."""
        return self.first, self.second

    @cached_property
    def languages(self) -> list[str]:
        """Return the languages that both have and whose texts are drawn."""
        return [lang for lang in self.first.drawn if lang in self.second.languages]

    @property
    def same_layers(self) -> bool:
        """Return whether both have the same MoE layers, and so can be compared layer by layer."""
        return self.first.record.moe_layers == self.second.record.moe_layers

    @property
    def same_experts(self) -> bool:
        """Return whether expert 3 of layer 5 may be the same in both: layers, experts and top-k are the same."""
        a, b = self.first.record, self.second.record
        return self.same_layers and (a.num_experts, a.top_k) == (b.num_experts, b.top_k)

    @cached_property
    def paired(self) -> bool:
        """Return whether both runs have the same texts of the languages, by their ids."""
        if not all(source.record.parallel and "sequences" in source.record.tables for source in self.sources):
            return False
        query = "select distinct lang, text_id from sequences where {} and lang in ({}) order by all"
        listed = ", ".join(map(literal, self.languages))
        frames = [source.frame(query.format(source.this_run, listed)) for source in self.sources]
        return frames[0].equals(frames[1])

    @cached_property
    def counts(self) -> tuple[CountCurves, CountCurves] | None:
        """Return both runs' curves made of counts, or None where one of them has none."""
        first, second = (source.counts for source in self._drawn)
        return (first, second) if first and second else None

    @cached_property
    def translations(self) -> tuple[TranslationCurves, TranslationCurves] | None:
        """Return both runs' similarity to the pivot, or None where one of them has none."""
        lacks = [
            source
            for source in self.sources
            if not {"profiles", "sequences"} <= set(source.record.tables)
            or not source.record.parallel
            or source.pivot not in self.languages
        ]
        if lacks or self.first.pivot != self.second.pivot or len(self.languages) < 2:
            return None
        first, second = (source.translations for source in self._drawn)
        return (first, second) if first and second else None

    @cached_property
    def _drawn(self) -> tuple[Source, Source]:
        languages = tuple(self.languages)
        seed = 0 if self.paired else SECOND_SEED
        return replace(self.first, languages=languages), replace(self.second, languages=languages, seed=seed)

    def depths(self, source: Source) -> list[float]:
        """Return where each MoE layer stands on the axis: its index, or, where layers differ, 0 to 1 of the depth."""
        layers = source.record.moe_layers
        if self.same_layers:
            return [float(layer) for layer in layers]
        return [(at + 0.5) / len(layers) for at in range(len(layers))]

    def frame(self, first: Layered, second: Layered) -> pl.DataFrame:
        """Return two curves as rows: run, depth, layer, value, low, high."""
        return pl.concat(
            [
                curve_frame(name, self.depths(source), source.record.moe_layers, *series)
                for name, source, series in zip(self.names, self.sources, (first, second), strict=True)
            ]
        )


def curve_frame(
    name: str,
    depths: Sequence[float],
    layers: Sequence[int],
    values: npt.NDArray[np.float64],
    curve: Curve | None,
) -> pl.DataFrame:
    """Return one curve as rows: run, depth, layer, value, low, high (null where there is no interval)."""
    low, high = curve.interval() if curve else (np.full(len(values), np.nan),) * 2
    frame = pl.DataFrame(
        {"run": [name] * len(values), "depth": depths, "layer": list(layers), "value": values, "low": low, "high": high}
    )
    return frame.with_columns(pl.col("low", "high").fill_nan(None))


def pair_of(first: tuple[Store, Source], second: tuple[Store, Source]) -> Pair:
    """Return two runs to compare; raise StoreError for a run and itself, and for runs without a language in common."""
    (store, a), (other, b) = first, second
    if (store.url, a.record.run) == (other.url, b.record.run):
        raise StoreError(
            f"{store.url}: run '{a.record.run}' would be compared with itself; name two runs: --run A --run B"
        )
    pair = Pair(a, b, _names(first, second))
    if not pair.languages:
        raise StoreError(
            f"runs '{pair.names[0]}' and '{pair.names[1]}' have no language in common, so there is nothing to compare"
        )
    return pair


def _names(first: tuple[Store, Source], second: tuple[Store, Source]) -> tuple[str, str]:
    """Return what the runs are called: their names, with the store's where both have the same."""
    (store, a), (other, b) = first, second
    names = a.record.run, b.record.run
    if names[0] != names[1]:
        return names
    folders = [str(store.url).rstrip("/").rpartition("/")[2] for store in (store, other)]
    if folders[0] == folders[1]:
        folders = [str(store.url) for store in (store, other)]
    return f"{folders[0]}: {names[0]}", f"{folders[1]}: {names[1]}"

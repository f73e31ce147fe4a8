"""What every section of the report reads: one run of a store, opened in DuckDB with the views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.quoting import literal

if TYPE_CHECKING:
    import duckdb

    from moetrace.store.format.records import RunRecord


@dataclass(frozen=True)
class Zone:
    """A stretch of layers: its name and the indices of its first and last MoE layer."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Source:
    """One run: its record, the languages of which there are shards, and a connection that has the SQL views."""

    connection: duckdb.DuckDBPyConnection
    record: RunRecord
    languages: tuple[str, ...]

    @property
    def pivot(self) -> str | None:
        """Return the pivot language, or None for a run without one."""
        pivot = self.record.corpus.get("pivot")
        return str(pivot) if pivot else None

    @property
    def reason_without_counts(self) -> str | None:
        """Return why the run cannot say how often experts are used, or None where it can."""
        if "usage" in self.record.tables:
            return None
        return "The run has no counts of how often experts are used (the usage table), which this measure needs."

    @property
    def reason_without_comparison(self) -> str | None:
        """Return why languages cannot be compared by their use of experts, or None where they can."""
        if len(self.languages) > 1:
            return self.reason_without_counts
        return f"This compares languages, and the store has one language of the run: {self.languages[0]}."

    @property
    def this_run(self) -> str:
        """Return the SQL condition that keeps this run's rows."""
        return f"run = {literal(self.record.run)}"

    def frame(self, query: str) -> pl.DataFrame:
        """Return a query's result."""
        with translate_duckdb_errors():
            frame: pl.DataFrame = self.connection.sql(query).pl()
        return frame

    @cached_property
    def zones(self) -> tuple[Zone, ...]:
        """Return the zones in the order of their layers."""
        rows = self.connection.sql(
            f"select zone, min(layer), max(layer) from zones where {self.this_run} group by zone order by min(ordinal)"
        ).fetchall()
        return tuple(Zone(str(name), int(first), int(last)) for name, first, last in rows)

    @cached_property
    def zone_frame(self) -> pl.DataFrame:
        """Return the zones as charts draw them: from half a layer before the first to half a layer after the last."""
        return pl.DataFrame(
            {
                "zone": [zone.name for zone in self.zones],
                "ordinal": list(range(len(self.zones))),
                "shade": [number % 2 for number in range(len(self.zones))],
                "first": [zone.first for zone in self.zones],
                "start": [zone.first - 0.5 for zone in self.zones],
                "end": [zone.last + 0.5 for zone in self.zones],
                "middle": [(zone.first + zone.last) / 2 for zone in self.zones],
            }
        )

"""What every section of the report reads: one run of a store, opened in DuckDB with the views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.quoting import literal
from moetrace.analytics.report.names import listed
from moetrace.analytics.uncertainty.curves import (
    MOST_LANGUAGES,
    REPLICATES,
    CountCurves,
    Drawn,
    TranslationCurves,
    count_curves,
    translation_curves,
)

if TYPE_CHECKING:
    import duckdb

    from moetrace.store.format.records import RunRecord


MOST_READ = 400_000_000  # routing decisions of the languages whose texts are drawn


@dataclass(frozen=True)
class Zone:
    """A stretch of layers: its name and the indices of its first and last MoE layer."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Source:
    """One run: its record, the languages of which there are shards, and a connection that has the SQL views.

    - replicates: how often texts are drawn for intervals; 0: there are none
    - first: languages that have intervals in any case, before others
    - seed: of the draws
    """

    connection: duckdb.DuckDBPyConnection
    record: RunRecord
    languages: tuple[str, ...]
    replicates: int = REPLICATES
    first: tuple[str, ...] = ()
    seed: int = 0

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

    @cached_property
    def drawn(self) -> list[str]:
        """Return the languages whose texts are drawn: all, or where there are many some of them, evenly by name.

        Of large corpora fewer: as many as have MOST_READ routing decisions, two at least.
        """
        tokens = self.frame(f"select coalesce(avg(tokens), 0)::double as mean from languages where {self.this_run}")
        decisions = tokens["mean"][0] * len(self.record.moe_layers) * self.record.top_k
        most = min(MOST_LANGUAGES, max(2, int(MOST_READ / max(decisions, 1))))
        if len(self.languages) <= most:
            return list(self.languages)
        known = [lang for lang in dict.fromkeys((*self.first, self.pivot)) if lang in self.languages]
        others = [lang for lang in self.languages if lang not in known]
        room = max(most - len(known), 0)
        evenly = [others[at * len(others) // room] for at in range(room)]
        return sorted([*known, *evenly][:most])

    @property
    def reason_without_intervals(self) -> str | None:
        """Return why it is not known how far numbers vary, or None where texts can be drawn."""
        if not self.replicates:
            return "No intervals were asked for: differences between near values may be chance."
        if lacks := [table for table in ("sequences", "tokens", "routes") if table not in self.record.tables]:
            return (
                f"The run has no {listed(lacks)}: how far these numbers would move with other texts is not "
                "known, and differences between near values may be chance."
            )
        return None

    @cached_property
    def counts(self) -> CountCurves | None:
        """Return the curves made of counts with their replicates, or None where texts cannot be drawn."""
        if self.reason_without_intervals:
            return None
        return count_curves(
            self.connection, run=self.record.run, languages=self.drawn, replicates=self.replicates, seed=self.seed
        )

    @cached_property
    def translations(self) -> TranslationCurves | None:
        """Return similarity to the pivot and excess with their replicates, or None where they are not asked for."""
        if not self.replicates:
            return None
        return translation_curves(
            self.connection, run=self.record.run, languages=self.drawn, replicates=self.replicates, seed=self.seed
        )

    def note_of(self, drawn: Drawn | None) -> tuple[str, ...]:
        """Return in words how intervals were made, or why there are none."""
        if drawn is None:
            return (self.reason_without_intervals,) if self.reason_without_intervals else ()
        texts = (
            f"all {drawn.of_text_ids:,} text ids"
            if drawn.text_ids == drawn.of_text_ids
            else f"{drawn.text_ids:,} of {drawn.of_text_ids:,} text ids, taken at random"
        )
        languages = (
            f"{len(drawn.languages)} of {len(self.languages)} languages; the others have none"
            if len(drawn.languages) < len(self.languages)
            else "all languages"
        )
        made = f"Intervals of 95%: {drawn.replicates:,} draws of {texts}, of {languages}, in {drawn.seconds:.1f} s."
        return (f"{made} They say how far other texts of this kind would move a number, not other kinds of text.",)

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

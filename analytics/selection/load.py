"""How much of the languages' routing a selection's experts do: a count for each, and the load of all together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import languages_of
from moetrace.analytics.selection.run_facts import counts_are_nominal
from moetrace.analytics.selection.selection import Load

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import duckdb

    from moetrace.analytics.selection.selection import SelectedExpert, Selection

    Cell = tuple[int, int]  # layer, expert


def with_counts(
    connection: duckdb.DuckDBPyConnection, selection: Selection, looked_at: Collection[str] = ()
) -> Selection:
    """Return a selection that says how often each of its experts is used, and which load all of them take.

    Targets are those of the selection. The others are the languages of `looked_at` (the selection's own where it is
    empty) that the run has and that are no targets; where none is left, all languages of the run but the targets.
    Without a target, all that were looked at are others, and an expert's count is theirs. Counts and load stay None
    where the run has no usage or lacks a target; counts also where they are nominal.
    """
    traced = languages_of(connection, selection.run)
    targets = set(selection.targets)
    if not targets <= set(traced):
        return selection
    others = (set(looked_at or selection.languages) & set(traced)) - targets or set(traced) - targets
    theirs = decisions_of(connection, selection.run, others)
    own = decisions_of(connection, selection.run, targets) if targets else theirs
    if not own:
        return selection
    nominal = counts_are_nominal(connection, selection.run)

    def counted(experts: Iterable[SelectedExpert]) -> tuple[SelectedExpert, ...]:
        return tuple(replace(item, count=None if nominal else own[item.layer, item.expert]) for item in experts)

    cells = [(item.layer, item.expert) for item in selection.experts]
    return replace(
        selection,
        experts=counted(selection.experts),
        missed=counted(selection.missed),
        load=Load(share_of(own, cells) if targets else None, share_of(theirs, cells)),
    )


def decisions_of(connection: duckdb.DuckDBPyConnection, run: str, languages: Iterable[str]) -> dict[Cell, int]:
    """Return the routing decisions of some languages of a run, pooled, that went to each (layer, expert).

    Every expert of every MoE layer has a number; there is none at all where the run has no usage of the languages.
    """
    with translate_duckdb_errors():
        rows = connection.execute(
            """
            select layer, expert, sum(count)::bigint
            from usage_by_language
            where run = $run and list_contains($languages, lang)
            group by layer, expert
            """,
            {"run": run, "languages": sorted(languages)},
        ).fetchall()
    return {(layer, expert): count for layer, expert, count in rows}


def share_of(decisions: Mapping[Cell, int], cells: Iterable[Cell]) -> float | None:
    """Return the share of all decisions that went to `cells`, 0 to 1; None where there are no decisions."""
    total = sum(decisions.values())
    return sum(decisions[cell] for cell in cells) / total if total else None

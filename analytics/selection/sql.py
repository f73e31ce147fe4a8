"""Any selection at all: the experts that a query over the store's views returns."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.errors import QueryError, translate_duckdb_errors
from moetrace.analytics.database.names import languages_of
from moetrace.analytics.database.query import run_query
from moetrace.analytics.selection.load import with_counts
from moetrace.analytics.selection.run_facts import model_of
from moetrace.analytics.selection.selection import SelectedExpert, Selection, SelectionError, by_layer_and_expert
from moetrace.store.mask import in_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

COLUMNS = (["expert", "layer"], ["expert", "layer", "score"])


def sql(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: Sequence[str] = (),
    *,
    query: str,
) -> Selection:
    """Select the experts that `query` returns: one a row, in columns `layer`, `expert` and, if it likes, `score`.

    The views hold every run of the store; the query says which it means. `targets` are written down in the mask.

    Raises UnknownNameError for a run or language that is not in the store, QueryError for what is not SQL, and
    SelectionError, naming the row, for other columns or more results than one, NULL, a layer or expert that the run
    lacks, an expert that stands twice, and where there are no rows.
    """
    chosen_targets = tuple(dict.fromkeys(targets))
    traced = languages_of(connection, run, chosen_targets or None)
    names, rows = _result(connection, query)
    model = model_of(connection, run)
    role = "specific" if chosen_targets else "shared"
    experts: dict[tuple[int, int], SelectedExpert] = {}
    for number, values in enumerate(rows, start=1):
        row, place = dict(zip(names, values, strict=True)), f"the query's row {number}"
        for name, value in row.items():
            _check_value(name, value, place)
        cell = layer, expert = row["layer"], row["expert"]
        if layer not in model.moe_layers:
            spans = in_spans(model.moe_layers)
            raise SelectionError(f"{place}: layer {layer} is no MoE layer of run '{run}', which are {spans}")
        if not 0 <= expert < model.num_experts:
            raise SelectionError(
                f"{place}: expert {expert}, but a layer of run '{run}' has {model.num_experts} experts"
            )
        if cell in experts:
            raise SelectionError(
                f"{place}: layer {layer}, expert {expert} stands twice; return each once, of one run and language"
            )
        score = float(row["score"]) if "score" in row else None
        experts[cell] = SelectedExpert(layer, expert, role, score=score, reason="returned by the query")
    if not experts:
        raise SelectionError("the query returns no rows, so there is no expert to select; loosen its conditions")
    selection = Selection(
        strategy="sql",
        run=run,
        targets=chosen_targets,
        languages=tuple(traced),
        tokens=sum(traced.values()),
        parameters={"query": query.strip()},
        experts=by_layer_and_expert(experts.values()),
        zones={},
    )
    return with_counts(connection, selection)


def _result(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names, in lower case, and rows of the one result of a query."""
    try:
        results = list(run_query(connection, query))
        if len(results) != 1:
            raise SelectionError(f"the query has {len(results)} results; it must return one, of columns layer, expert")
        with translate_duckdb_errors():
            names, rows = [name.lower() for name in results[0].columns], results[0].fetchall()
    except QueryError as error:
        # Without the excerpt of the query, which DuckDB draws on lines of its own.
        words = str(error).partition("\n\nLINE ")[0].split()
        raise QueryError(f"the query fails: {' '.join(words)}") from error
    if sorted(names) not in COLUMNS:
        raise SelectionError(f"the query returns columns {', '.join(names)}; it must return layer, expert[, score]")
    return names, rows


def _check_value(name: str, value: object, place: str) -> None:
    if value is None:
        raise SelectionError(f"{place}: {name} is NULL")
    if name == "score":
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
            raise SelectionError(f"{place}: score {value} is not a finite number")
    elif isinstance(value, bool) or not isinstance(value, int):
        raise SelectionError(f"{place}: {name} {value!r} is not a whole number")

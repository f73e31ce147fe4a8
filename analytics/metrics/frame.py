"""A metric of sql/3_metrics as a polars frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.documentation import view
from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import check_languages
from moetrace.analytics.database.query import FILTER_NEEDS, missing_inputs
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb
    import polars as pl

LISTS = ("languages", "layers")  # arguments that DuckDB takes as a list, whatever sequence they were given as


def metric_frame(connection: duckdb.DuckDBPyConnection, name: str, **arguments: Any) -> pl.DataFrame:
    """Return the rows of a view or macro of sql/3_metrics, sorted by its columns from left to right.

    `arguments` are the macro's own, None for its default. Raises UnknownNameError for a language that no run has,
    MoetraceError where there are no rows because no run was traced with what the metric, or one of its filters, needs,
    TypeError for an argument that the metric does not take.
    """
    if unknown := arguments.keys() - view(name).defaults.keys():
        raise TypeError(f"{name}() got an unexpected keyword argument '{min(unknown)}'")
    given = {key: list(value) if key in LISTS and value is not None else value for key, value in arguments.items()}
    if given.get("languages") is not None:
        check_languages(connection, given["languages"])
    listed = ", ".join(f"{argument} := ${argument}" for argument in given)
    call = f"{name}({listed})" if given else name
    with translate_duckdb_errors():
        frame: pl.DataFrame = connection.sql(f"from {call} order by all", params=given or None).pl()
    filters = " ".join(argument for argument in FILTER_NEEDS if arguments.get(argument))
    if frame.is_empty() and (missing := missing_inputs(connection, f"{name} {filters}")):
        with translate_duckdb_errors():
            ((runs,),) = connection.execute("select count(*) from runs").fetchall()
        if len(missing) == runs:
            raise MoetraceError("; ".join(missing))
    return frame


def permutation_arguments(permutations: int, seed: int) -> dict[str, int]:
    """Return the arguments of a macro that permutes languages; raise MoetraceError for a number that cannot be."""
    if permutations < 0:
        raise MoetraceError(f"permutations = {permutations}: 0 is none, which leaves p unknown; 999 is the default")
    return {"permutations": permutations, "seed": seed}


def traced_layers(connection: duckdb.DuckDBPyConnection, layers: Sequence[int] | None) -> list[int]:
    """Return which of `layers` (of all where None) any run of the store has, ascending."""
    with translate_duckdb_errors():
        traced = connection.execute("select distinct layer from moe_layers order by layer").fetchall()
    return [layer for (layer,) in traced if layers is None or layer in layers]


def chunks(layers: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Yield the layers some at a time, one at least."""
    for start in range(0, len(layers), max(at_once, 1)):
        yield list(layers[start : start + max(at_once, 1)])

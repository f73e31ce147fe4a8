"""Scores of your own for each language, such as a benchmark's accuracy, and whether they go with routing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import check_languages
from moetrace.analytics.metrics.frame import metric_frame, permutation_arguments
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

_FEWEST = 3  # of a correlation: two points always lie on a line


def score_correlation(
    connection: duckdb.DuckDBPyConnection,
    scores: pl.DataFrame,
    pivot_lang: str | None = None,
    layers: Sequence[int] | None = None,
    permutations: int = 999,
    seed: int = 0,
) -> pl.DataFrame:
    """Return, at each layer, the correlation of similarity to the pivot language with `scores` (lang, score).

    p-values are of scores permuted over the languages; `p_layers` counts that many layers were looked at, `p` does not.
    A language without a score is left out, and so is the pivot language: it has no similarity to itself. Raises
    UnknownNameError for a language that no run has, MoetraceError for scores that are no such table, and where fewer
    than three languages are left, or `permutations` are fewer than 0.
    """
    arguments = {"pivot_lang": pivot_lang, "layers": layers, **permutation_arguments(permutations, seed)}
    given = _checked_scores(connection, scores)
    name = "given_scores"
    with translate_duckdb_errors():
        connection.execute(
            f"create or replace temp table {name} as select unnest($lang) as lang, unnest($score) as score",
            _columns(given),
        )
        try:
            frame = metric_frame(connection, "score_correlation", scores=name, **arguments)
        finally:
            connection.execute(f"drop table {name}")
    if (most := max(frame["n"], default=0)) < _FEWEST:
        raise MoetraceError(
            f"a correlation needs {_FEWEST} languages with a score and a similarity to the pivot language, and "
            f"there are {most}; similarity needs profiles, and texts that the language shares with the pivot"
        )
    return frame


def read_scores(path: str | Path) -> pl.DataFrame:
    """Read a table of scores from a .csv or .parquet file; raise MoetraceError where it is none."""
    suffix = Path(path).suffix
    if suffix not in {".csv", ".parquet"}:
        raise MoetraceError(f"{path}: scores are read from a .csv or a .parquet file")
    try:
        return pl.read_csv(path) if suffix == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MoetraceError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def use_scores(connection: duckdb.DuckDBPyConnection, scores: pl.DataFrame) -> None:
    """Put (lang, score) into the table `scores`, which `score_correlation` reads in SQL; raise as that does."""
    given = _checked_scores(connection, scores)
    with translate_duckdb_errors():
        connection.execute("delete from scores")
        connection.execute("insert into scores select unnest($lang), unnest($score)", _columns(given))


def _checked_scores(connection: duckdb.DuckDBPyConnection, scores: pl.DataFrame) -> pl.DataFrame:
    """Return (lang, score) without missing ones; raise where they are no table of a finite number a known language."""
    if missing := {"lang", "score"} - set(scores.columns):
        raise MoetraceError(f"scores have no column '{min(missing)}'; they need lang and score, one row a language")
    given = scores.select("lang", "score").drop_nulls()
    if not given["score"].dtype.is_numeric() or not given["score"].cast(pl.Float64).is_finite().all():
        raise MoetraceError("scores hold what is no finite number; leave out languages without a score")
    if repeated := given.filter(given["lang"].is_duplicated())["lang"].to_list():
        raise MoetraceError(f"scores have language '{repeated[0]}' more than once; they need one row a language")
    check_languages(connection, given["lang"].to_list())
    return given


def _columns(given: pl.DataFrame) -> dict[str, list[object]]:
    return {"lang": given["lang"].to_list(), "score": given["score"].cast(pl.Float64).to_list()}

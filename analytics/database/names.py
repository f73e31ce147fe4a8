"""Which runs and languages a store has, and the one-line error for a name that is not among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.store.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb


def check_runs(connection: duckdb.DuckDBPyConnection, runs: Iterable[str]) -> None:
    """Raise UnknownNameError for the first of `runs` that the store lacks."""
    with translate_duckdb_errors():
        known = [name for (name,) in connection.execute("select run from runs").fetchall()]
    _check_names("run", runs, known, "the store")


def check_languages(connection: duckdb.DuckDBPyConnection, languages: Iterable[str]) -> None:
    """Raise UnknownNameError for the first of `languages` that no run of the store has."""
    with translate_duckdb_errors():
        known = [name for (name,) in connection.execute("select distinct lang from languages").fetchall()]
    _check_names("language", languages, known, "the store")


def languages_of(
    connection: duckdb.DuckDBPyConnection, run: str, languages: Iterable[str] | None = None
) -> dict[str, int]:
    """Return the tokens of a run's languages (of `languages`, all where None), sorted by language.

    Raises UnknownNameError for a run that the store lacks and for a language that the run lacks.
    """
    check_runs(connection, [run])
    with translate_duckdb_errors():
        traced = dict(
            connection.execute("select lang, tokens from languages where run = ? order by lang", [run]).fetchall()
        )
    if languages is None:
        return traced
    wanted = set(languages)
    _check_names("language", sorted(wanted), traced, f"run '{run}'")
    return {lang: tokens for lang, tokens in traced.items() if lang in wanted}


def _check_names(kind: str, names: Iterable[str], known: Iterable[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError.among(kind, name, known, where)

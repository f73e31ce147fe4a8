"""What every strategy checks of its settings and its languages before it selects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from moetrace.analytics.database.names import languages_of
from moetrace.analytics.selection.selection import SelectionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb


def check_finite(**settings: float) -> None:
    """Raise SelectionError for a setting that is infinite or not a number."""
    for name, value in settings.items():
        if not math.isfinite(value):
            raise SelectionError(f"{name} {value}: pass a finite number with --{name.replace('_', '-')}")


def check_count(name: str, value: int, most: int, pool: str, *, least: int = 1) -> None:
    """Raise SelectionError where `value` of the setting `name` is not `least` to `most`, the size of `pool`."""
    if not least <= value <= most:
        raise SelectionError(f"{name} {value}: {pool}; pass --{name} {least} to {most}")


def compared_languages(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    strategy: str,
    chosen: Sequence[str],
    reference: Sequence[str],
    without: Sequence[str] = (),
) -> dict[str, int]:
    """Return the tokens of the languages that a strategy compares: `chosen` and `reference`, all where that is empty.

    None of `without` is compared.

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for fewer than two languages.
    """
    languages_of(connection, run, chosen)
    traced = languages_of(connection, run, {*chosen, *reference} if reference else None)
    traced = {lang: tokens for lang, tokens in traced.items() if lang not in without}
    if len(traced) < 2:
        raise SelectionError(
            f"run '{run}': {strategy} compares languages, and {', '.join(traced)} is the only one; "
            f"trace or name another"
        )
    return traced

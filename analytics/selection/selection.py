"""Which experts to train or to steer: what a selection is, and what every strategy beside it needs.

A strategy is a function that returns a Selection; masks and file formats are made from that alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import languages_of
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb


class SelectionError(MoetraceError):
    """The experts that were asked for cannot be selected from this run."""


@dataclass(frozen=True)
class SelectedExpert:
    """One expert of a selection, chosen or just missed, and why.

    - role: specific (to the targets), shared (among the languages) or task
    - score: what it was ranked by; specificity and overlap are the `rise` metrics behind it
    - reason: the same in words, for people; masks do not carry it
    """

    layer: int
    expert: int
    role: str
    zone: str | None = None
    score: float | None = None
    specificity: float | None = None
    overlap: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """What a strategy chose.

    - targets: the languages it chose for; languages: those it looked at, targets included; tokens: traced of those
    - parameters: the strategy's settings, as the mask records them
    - experts: ascending by layer, then expert
    - zones: the decoder layers of each zone, where the strategy has zones
    - missed: the experts that would have been chosen next, of each zone, layer or kind that the strategy fills
    """

    strategy: str
    run: str
    targets: tuple[str, ...]
    languages: tuple[str, ...]
    tokens: int
    parameters: Mapping[str, Any]
    experts: tuple[SelectedExpert, ...]
    zones: Mapping[str, tuple[int, ...]]
    missed: tuple[SelectedExpert, ...] = ()


@dataclass(frozen=True)
class PooledUsage:
    """How often several languages together use one expert; `weight_sum` is None where weights were not traced."""

    layer: int
    expert: int
    count: int
    tokens: int
    weight_sum: float | None


def in_order(experts: Iterable[SelectedExpert]) -> tuple[SelectedExpert, ...]:
    """Return experts ascending by layer, then expert."""
    return tuple(sorted(experts, key=lambda item: (item.layer, item.expert)))


def settled(value: float) -> float:
    """Return a score at 12 significant digits: what differs by the order of a sum alone is a tie on every machine."""
    return float(f"{value:.12g}")


def best_first(score: float, layer: int, expert: int) -> tuple[float, int, int]:
    """Return the key that sorts the highest score first, ties the lower (layer, expert) first."""
    return -settled(score), layer, expert


def exact(number: float) -> Fraction:
    """Return the decimal that was meant: floor(180 x 0.35) is 63, whatever binary 0.35 is."""
    return Fraction(str(number))


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
    connection: duckdb.DuckDBPyConnection, run: str, strategy: str, chosen: Sequence[str], reference: Sequence[str]
) -> dict[str, int]:
    """Return the tokens of the languages that a strategy compares: `chosen` and `reference`, all where that is empty.

    Raises UnknownNameError for a run or language that is not in the store, SelectionError for fewer than two languages.
    """
    languages_of(connection, run, chosen)
    traced = languages_of(connection, run, {*chosen, *reference} if reference else None)
    if len(traced) < 2:
        raise SelectionError(
            f"run '{run}': {strategy} compares languages, and {', '.join(traced)} is the only one; "
            f"trace or name another"
        )
    return traced


def moe_layers_of(connection: duckdb.DuckDBPyConnection, run: str) -> list[int]:
    """Return the decoder indices of a run's MoE layers, ascending."""
    with translate_duckdb_errors():
        rows = connection.execute("select layer from moe_layers where run = ? order by layer", [run]).fetchall()
    return [layer for (layer,) in rows]


def facts_of(connection: duckdb.DuckDBPyConnection, run: str) -> tuple[int, int, str | None]:
    """Return a run's experts in a layer, top-k and config digest."""
    with translate_duckdb_errors():
        row = connection.execute("select num_experts, top_k, config_sha256 from runs where run = ?", [run]).fetchone()
    if row is None:
        raise SelectionError(f"the store has no run '{run}'")
    return row[0], row[1], row[2]


def pooled_usage(connection: duckdb.DuckDBPyConnection, run: str, languages: Iterable[str]) -> list[PooledUsage]:
    """Return a row for each expert of a run, by layer and expert: its counts and tokens summed over `languages`.

    Raises SelectionError where the run has no usage.
    """
    with translate_duckdb_errors():
        rows = connection.execute(
            """
            select
                layer,
                expert,
                sum(count)::bigint,
                sum(tokens)::bigint,
                case when count(weight_sum) = count(*) then sum(weight_sum order by lang) end
            from usage_by_language
            where run = $run and list_contains($languages, lang)
            group by layer, expert
            order by layer, expert
            """,
            {"run": run, "languages": list(languages)},
        ).fetchall()
    return [PooledUsage(*row) for row in with_usage(rows, run)]


def with_usage(rows: list[Any], run: str) -> list[Any]:
    """Return rows made of a run's usage; raise SelectionError where there are none."""
    if not rows:
        raise SelectionError(f"run '{run}' has no usage; selecting experts needs the usage table")
    return rows

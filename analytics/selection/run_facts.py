"""What a run of the store says that strategies need: the shape of its model, and how often each expert was used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.selection.selection import SelectionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb


@dataclass(frozen=True)
class RunModel:
    """The model of a run, as far as it decides which experts there are.

    - moe_layers: decoder indices of the MoE layers, ascending
    - num_experts: experts of each of them; top_k: experts that a token is sent to
    - config_sha256: digest of the model's configuration, None where it is not known
    """

    moe_layers: list[int]
    num_experts: int
    top_k: int
    config_sha256: str | None


@dataclass(frozen=True)
class PooledUsage:
    """How often several languages together use one expert; `weight_sum` is None where weights were not traced."""

    layer: int
    expert: int
    count: int
    tokens: int
    weight_sum: float | None


def model_of(connection: duckdb.DuckDBPyConnection, run: str) -> RunModel:
    """Return the model of a run; raise SelectionError where the store has no such run."""
    with translate_duckdb_errors():
        row = connection.execute("select num_experts, top_k, config_sha256 from runs where run = ?", [run]).fetchone()
        layers = connection.execute("select layer from moe_layers where run = ? order by layer", [run]).fetchall()
    if row is None:
        raise SelectionError(f"the store has no run '{run}'; `moetrace ls` lists those that it has")
    return RunModel([layer for (layer,) in layers], *row)


def counts_are_nominal(connection: duckdb.DuckDBPyConnection, run: str) -> bool:
    """Return whether the counts of a run stand for no real ones: only activation frequencies are known."""
    with translate_duckdb_errors():
        rows = connection.execute("select nominal_tokens from runs where run = ?", [run]).fetchall()
    return any(nominal for (nominal,) in rows)


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
    return [PooledUsage(*row) for row in require_usage(rows, run)]


def require_usage(rows: list[Any], run: str) -> list[Any]:
    """Return the rows of a query over the usage of `run`; raise SelectionError where there are none."""
    if not rows:
        raise SelectionError(f"run '{run}' has no usage; selecting experts needs the usage table")
    return rows

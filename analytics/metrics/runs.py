"""Two runs of a store compared: stages of one model, or texts of a task and general ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.database.names import check_runs
from moetrace.analytics.metrics.frame import metric_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import polars as pl


def stage_comparison(
    connection: duckdb.DuckDBPyConnection,
    run_a: str | None = None,
    run_b: str | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return entropy, divergence and specialization of two runs side by side (of every pair of runs where None).

    Raises UnknownNameError for a run that the store lacks.
    """
    check_runs(connection, [run for run in (run_a, run_b) if run is not None])
    return metric_frame(connection, "stage_comparison", run_a=run_a, run_b=run_b, layers=layers)


def task_experts(
    connection: duckdb.DuckDBPyConnection,
    run_a: str | None = None,
    run_b: str | None = None,
    tau: float = 0,
    lang: str | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how much more texts of `run_a` use each expert than those of `run_b` (every pair of runs where None).

    Raises UnknownNameError for a run that is not in the store.
    """
    check_runs(connection, [run for run in (run_a, run_b) if run is not None])
    return metric_frame(connection, "task_experts", run_a=run_a, run_b=run_b, tau=tau, lang=lang, layers=layers)


def route_agreement(
    connection: duckdb.DuckDBPyConnection,
    run_a: str | None = None,
    run_b: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how alike two runs route the same tokens (every pair of runs of as many experts a token where None).

    Raises UnknownNameError for a run or a language that the store lacks, MoetraceError where a run was traced without
    `routes`.
    """
    check_runs(connection, [run for run in (run_a, run_b) if run is not None])
    return metric_frame(connection, "route_agreement", run_a=run_a, run_b=run_b, languages=languages, layers=layers)

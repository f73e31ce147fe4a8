"""Every metric of sql/3_metrics as a polars frame: one function a view, with the view's name and its macro's arguments.

The definitions, columns, ranges and sources stand in the SQL files; `moetrace views NAME` prints them. Frames are
sorted by their columns, from left to right, and hold every run of the store. A language that no run has raises
UnknownNameError. Where there is no row because no run was traced with what the metric needs, MoetraceError says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import check_languages, check_runs
from moetrace.analytics.database.query import missing_inputs
from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

TOKEN_LAYERS = 1 << 22  # tokens x layers that routing_consistency takes together, at about 50 bytes an expert of each
LEAST_LANGUAGES = 3  # of a correlation: two points always lie on a line


def activation(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return how often, and with what weight, each language uses each expert."""
    return _frame(connection, "activation")


def expert_sets(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return the `n` most used experts (the run's top_k where None) of each language and layer."""
    return _frame(connection, "expert_sets", n=_set_size(n), languages=_list(languages), layers=_list(layers))


def jaccard(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how much the expert sets of each pair of languages overlap at each layer."""
    return _frame(connection, "jaccard", n=_set_size(n), languages=_list(languages), layers=_list(layers))


def jaccard_by_layer(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return the mean overlap of expert sets at each layer, over language pairs."""
    return _frame(connection, "jaccard_by_layer", n=_set_size(n), languages=_list(languages), layers=_list(layers))


def jaccard_by_language(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return the mean overlap of each language's expert sets with the others', over layers and languages."""
    return _frame(connection, "jaccard_by_language", n=_set_size(n), languages=_list(languages), layers=_list(layers))


def jaccard_by_pair(
    connection: duckdb.DuckDBPyConnection,
    n: int | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return the mean overlap of the expert sets of each pair of languages, over layers."""
    return _frame(connection, "jaccard_by_pair", n=_set_size(n), languages=_list(languages), layers=_list(layers))


def routing_entropy(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return how evenly each language's tokens spread over the experts of each layer."""
    return _frame(connection, "routing_entropy", languages=_list(languages), layers=_list(layers))


def divergence(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return the Jensen-Shannon divergence of each pair of languages at each layer."""
    return _frame(connection, "divergence", languages=_list(languages), layers=_list(layers))


def divergence_by_layer(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return the mean divergence of all pairs of languages at each layer: the convergence-divergence curve."""
    return _frame(connection, "divergence_by_layer", languages=_list(languages), layers=_list(layers))


def pivot_similarity(
    connection: duckdb.DuckDBPyConnection,
    pivot_lang: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how alike texts and their translations in the pivot language are routed (the run's pivot where None)."""
    return _frame(
        connection, "pivot_similarity", pivot_lang=pivot_lang, languages=_list(languages), layers=_list(layers)
    )


def specificity(
    connection: duckdb.DuckDBPyConnection,
    alpha: float = 10,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how much more each language uses each expert than `languages` (all where None) do on average."""
    return _frame(connection, "specificity", alpha=alpha, languages=_list(languages), layers=_list(layers))


def overlap(
    connection: duckdb.DuckDBPyConnection,
    alpha: float = 10,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return how evenly `languages` (all where None) use each expert."""
    return _frame(connection, "overlap", alpha=alpha, languages=_list(languages), layers=_list(layers))


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
    return _frame(connection, "stage_comparison", run_a=run_a, run_b=run_b, layers=_list(layers))


def zones(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return the zone of each MoE layer: shallow, middle or deep."""
    return _frame(connection, "zones")


def zones_auto(connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the zone of each MoE layer where zones are cut by the divergence of `languages` (all where None)."""
    return _frame(connection, "zones_auto", languages=_list(languages))


def activation_gap(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return whose each expert is, and how far that language is ahead of the next."""
    return _frame(connection, "activation_gap", languages=_list(languages), layers=_list(layers))


def language_specialization(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return how much the expert tells about the language of a token, at each layer."""
    return _frame(connection, "language_specialization", languages=_list(languages), layers=_list(layers))


def exclusive_experts(
    connection: duckdb.DuckDBPyConnection,
    threshold: float = 0.5,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return the experts of which one language holds at least `threshold` of the use."""
    return _frame(
        connection, "exclusive_experts", threshold=threshold, languages=_list(languages), layers=_list(layers)
    )


def vocabulary_overlap(connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None) -> pl.DataFrame:
    """Return how many token ids, and how much of their tokens, each pair of languages shares."""
    return _frame(connection, "vocabulary_overlap", languages=_list(languages))


def divergence_vs_vocabulary(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return, at each layer, the correlation of divergence with shared vocabulary over language pairs."""
    return _frame(connection, "divergence_vs_vocabulary", languages=_list(languages), layers=_list(layers))


def routing_consistency(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return how many experts a token shares with the token before it, by language and layer.

    One language, and at most TOKEN_LAYERS of its tokens x layers, is looked at at a time: memory does not grow with the
    store.
    """
    asked = [
        _frame(connection, "routing_consistency", languages=[lang], layers=some)
        for lang, some in _in_parts(connection, languages, layers)
    ]
    empty = _frame(connection, "routing_consistency", languages=[], layers=[])
    return pl.concat([empty, *asked]).sort(["run", "lang", "layer"])


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
    return _frame(connection, "task_experts", run_a=run_a, run_b=run_b, tau=tau, lang=lang, layers=_list(layers))


def score_correlation(
    connection: duckdb.DuckDBPyConnection,
    scores: pl.DataFrame,
    pivot_lang: str | None = None,
    layers: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Return, at each layer, the correlation of similarity to the pivot language with `scores` (lang, score).

    A language without a score is left out, and so is the pivot language: it has no similarity to itself. Raises
    UnknownNameError for a language that no run has, MoetraceError for scores that are no such table, and where fewer
    than three languages are left.
    """
    given = _checked_scores(connection, scores)
    name = "given_scores"
    with translate_duckdb_errors():
        connection.execute(
            f"create or replace temp table {name} as select unnest($lang) as lang, unnest($score) as score",
            {"lang": given["lang"].to_list(), "score": given["score"].cast(pl.Float64).to_list()},
        )
        try:
            frame = _frame(connection, "score_correlation", scores=name, pivot_lang=pivot_lang, layers=_list(layers))
        finally:
            connection.execute(f"drop table {name}")
    if (most := max(frame["n"], default=0)) < LEAST_LANGUAGES:
        raise MoetraceError(
            f"a correlation needs {LEAST_LANGUAGES} languages with a score and a similarity to the pivot language, and "
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
        connection.execute(
            "insert into scores select unnest($lang), unnest($score)",
            {"lang": given["lang"].to_list(), "score": given["score"].cast(pl.Float64).to_list()},
        )


def _checked_scores(connection: duckdb.DuckDBPyConnection, scores: pl.DataFrame) -> pl.DataFrame:
    if missing := {"lang", "score"} - set(scores.columns):
        raise MoetraceError(f"scores have no column '{min(missing)}'; they need lang and score, one row a language")
    given = scores.select("lang", "score").drop_nulls()
    if not given["score"].dtype.is_numeric() or not given["score"].cast(pl.Float64).is_finite().all():
        raise MoetraceError("scores hold what is no finite number; leave out languages without a score")
    if repeated := given.filter(given["lang"].is_duplicated())["lang"].to_list():
        raise MoetraceError(f"scores have language '{repeated[0]}' more than once; they need one row a language")
    check_languages(connection, given["lang"].to_list())
    return given


def _frame(connection: duckdb.DuckDBPyConnection, name: str, **arguments: object) -> pl.DataFrame:
    if isinstance(named := arguments.get("languages"), list):
        check_languages(connection, named)
    given = ", ".join(f"{argument} := ${argument}" for argument in arguments)
    call = f"{name}({given})" if arguments else name
    with translate_duckdb_errors():
        frame: pl.DataFrame = connection.sql(f"from {call} order by all", params=arguments or None).pl()
    if frame.is_empty() and (missing := missing_inputs(connection, name)):
        with translate_duckdb_errors():
            ((runs,),) = connection.execute("select count(*) from runs").fetchall()
        if len(missing) == runs:
            raise MoetraceError("; ".join(missing))
    return frame


def _set_size(n: int | None) -> int | None:
    if n is not None and n < 1:
        raise MoetraceError(f"n = {n}: a set of experts has at least 1 member")
    return n


def _list(values: Sequence[object] | None) -> list[object] | None:
    return None if values is None else list(values)


def _in_parts(
    connection: duckdb.DuckDBPyConnection, languages: Sequence[str] | None, layers: Sequence[int] | None
) -> Iterator[tuple[str, list[int]]]:
    """Yield every (language, some layers) of at most TOKEN_LAYERS tokens x layers, one layer at least."""
    with translate_duckdb_errors():
        tokens = connection.execute("select lang, sum(tokens) from languages group by lang order by lang").fetchall()
        traced = connection.execute("select distinct layer from moe_layers order by layer").fetchall()
    wanted = [layer for (layer,) in traced if layers is None or layer in layers]
    for lang, number in tokens:
        if languages is None or lang in languages:
            at_once = max(TOKEN_LAYERS // max(number, 1), 1)
            for start in range(0, len(wanted), at_once):
                yield lang, wanted[start : start + at_once]

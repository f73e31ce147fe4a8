"""Which texts are resampled: those of some languages of a run, and where the same text stands in each language."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import check_runs, languages_of
from moetrace.store.errors import MoetraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    import numpy.typing as npt

_tables = count()  # of tokens, each with a name of its own: a connection may have several


@dataclass(frozen=True)
class Texts:
    """The texts of some languages of one run.

    - languages: those whose texts are resampled, sorted
    - pivot: the language that they are compared to, None where they are compared to each other
    - parallel: whether the same text id in two languages means the same text
    - layers: the MoE layers to look at, ascending
    - seqs: language -> int [S], the numbers of its S texts, ascending; the pivot's too
    - ids: language -> intp [S], the index of each of its texts' ids; the same text has the same index in all languages,
      and no two languages share one where texts are not parallel
    - names: the text id of each index
    - tokens: language -> int [S], tokens of each of its texts
    """

    connection: duckdb.DuckDBPyConnection
    run: str
    top_k: int
    num_experts: int
    languages: list[str]
    pivot: str | None
    parallel: bool
    layers: list[int]
    seqs: Mapping[str, npt.NDArray[Any]]
    ids: Mapping[str, npt.NDArray[np.intp]]
    names: npt.NDArray[np.object_]
    tokens: Mapping[str, npt.NDArray[np.int64]]
    drawn: str | None = None  # where these are some of the texts: a table of their tokens, lang, shard, token, seq

    def some(self, most: int, rng: np.random.Generator) -> Texts:
        """Return these texts, or `most` of their ids drawn at random where there are more, of each language its own.

        Where texts are parallel the ids are the same in all languages, so that translations stay together.
        """
        groups = [np.unique(np.concatenate(list(self.ids.values())))] if self.parallel else list(self.ids.values())
        if all(len(group) <= most for group in groups):
            return self
        kept = np.concatenate([rng.permutation(group)[:most] for group in groups])
        mine = {lang: np.isin(ids, kept) for lang, ids in self.ids.items()}
        number = np.full(len(self.names), -1)
        order = np.sort(kept)
        number[order] = np.arange(len(order))
        seqs = {lang: seqs[mine[lang]] for lang, seqs in self.seqs.items()}
        return replace(
            self,
            seqs=seqs,
            ids={lang: number[ids[mine[lang]]].astype(np.intp) for lang, ids in self.ids.items()},
            names=self.names[order],
            tokens={lang: tokens[mine[lang]] for lang, tokens in self.tokens.items()},
            drawn=_table_of_tokens(self.connection, self.run, seqs),
        )

    def fetch(self, query: str, **values: object) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a query's result; `values` stand in it as $name."""
        return _fetch(self.connection, query, **values)

    def rows_of_ids(self, lang: str, ids: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return where the texts of these ids stand among the texts of `lang`, -1 for a text that it lacks."""
        rows = np.full(len(self.names), -1)
        rows[self.ids[lang]] = np.arange(len(self.ids[lang]))
        return rows[ids]

    def shared_rows(self, lang: str, other: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return where the texts that two languages share stand in each; raise MoetraceError where there are none."""
        shared = np.intersect1d(self.ids[lang], self.ids[other])
        if not len(shared):
            raise MoetraceError(f"run '{self.run}': {lang} and {other} have no text in common to exchange")
        return self.rows_of_ids(lang, shared), self.rows_of_ids(other, shared)


def _table_of_tokens(connection: duckdb.DuckDBPyConnection, run: str, seqs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Make a table of the tokens of some texts, which each layer is joined with; return its name."""
    name = f"drawn_tokens_{next(_tables)}"
    given = {
        "run": run,
        "langs": [lang for lang, found in seqs.items() for _ in found],
        "seqs": [seq for found in seqs.values() for seq in found.tolist()],
    }
    with translate_duckdb_errors():
        connection.execute(
            f"create temp table {name} as select lang, shard, token, seq from tokens "
            "where run = $run and (lang, seq) in (select unnest($langs), unnest($seqs))",
            given,
        )
    return name


def find_texts(
    connection: duckdb.DuckDBPyConnection,
    run: str | None,
    languages: Sequence[str] | None,
    layers: Sequence[int] | None,
) -> Texts:
    """Return the texts of `languages` (all where None), to look at `layers` (all where None).

    `run` may be None where the store has one. Raises UnknownNameError for a run, language or MoE layer that is not
    there, MoetraceError for a run without texts.
    """
    return _find(connection, _find_run(connection, run), languages, layers, None)


def find_texts_and_translations(
    connection: duckdb.DuckDBPyConnection,
    run: str | None,
    languages: Sequence[str] | None,
    layers: Sequence[int] | None,
    pivot_lang: str | None,
) -> Texts:
    """Return the texts as `find_texts` does, and those of the pivot language (the run's where None) with them."""
    found = _find_run(connection, run)
    if not found.parallel:
        raise MoetraceError(
            f"run '{found.name}': its text ids are numbers, and the same one in two languages is not the same text; "
            "pivot_similarity needs translations"
        )
    if not (pivot := pivot_lang or found.pivot):
        raise MoetraceError(f"run '{found.name}' names no pivot language; name one: pivot_lang")
    languages_of(connection, found.name, [pivot])
    return _find(connection, found, languages, layers, pivot)


@dataclass(frozen=True)
class _Run:
    name: str
    top_k: int
    num_experts: int
    pivot: str | None
    parallel: bool


def _find_run(connection: duckdb.DuckDBPyConnection, run: str | None) -> _Run:
    with translate_duckdb_errors():
        known = connection.execute(
            "select run, top_k, num_experts, pivot_lang, parallel from runs order by run"
        ).fetchall()
    if run is not None:
        check_runs(connection, [run])
    elif len(known) != 1:
        names = ", ".join(name for name, *_ in known)
        raise UnknownNameError(f"the store has {len(known)} runs ({names}); say which")
    (found,) = [_Run(*row) for row in known if run in (None, row[0])]
    return found


def _find(
    connection: duckdb.DuckDBPyConnection,
    run: _Run,
    languages: Sequence[str] | None,
    layers: Sequence[int] | None,
    pivot: str | None,
) -> Texts:
    chosen = list(languages_of(connection, run.name, languages))
    names = sorted({*chosen, *([pivot] if pivot else [])})
    rows = _fetch(
        connection,
        "select lang, seq, tokens, text_id, dense_rank() over (order by if($parallel, '', lang), text_id) - 1 as text "
        "from sequences where run = $run and list_contains($languages, lang) order by lang, seq",
        parallel=run.parallel,
        run=run.name,
        languages=names,
    )
    if not len(rows["seq"]):
        raise MoetraceError(f"run '{run.name}' has roll-ups only: without its texts nothing can be resampled")
    text_ids = np.empty(int(rows["text"].max()) + 1, dtype=object)
    text_ids[rows["text"]] = rows["text_id"]
    mine = {lang: rows["lang"] == lang for lang in names}
    return Texts(
        connection=connection,
        run=run.name,
        top_k=run.top_k,
        num_experts=run.num_experts,
        languages=chosen,
        pivot=pivot,
        parallel=run.parallel,
        layers=_find_layers(connection, run.name, layers),
        seqs={lang: rows["seq"][at] for lang, at in mine.items()},
        ids={lang: rows["text"][at].astype(np.intp) for lang, at in mine.items()},
        names=text_ids,
        tokens={lang: rows["tokens"][at].astype(np.int64) for lang, at in mine.items()},
    )


def _find_layers(connection: duckdb.DuckDBPyConnection, run: str, layers: Sequence[int] | None) -> list[int]:
    rows = _fetch(connection, "select layer from moe_layers where run = $run order by layer", run=run)
    known: list[int] = rows["layer"].tolist()
    for layer in layers or ():
        if layer not in known:
            raise UnknownNameError(f"run '{run}' has no MoE layer {layer}; it has {known[0]} to {known[-1]}")
    return known if layers is None else sorted(set(layers))


def _fetch(connection: duckdb.DuckDBPyConnection, query: str, **values: object) -> dict[str, npt.NDArray[Any]]:
    with translate_duckdb_errors():
        found: dict[str, npt.NDArray[Any]] = connection.execute(query, values).fetchnumpy()
    return found

"""The view `pivot_similarity` in NumPy, a few layers of two languages at a time: in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.metrics.frame import chunks
from moetrace.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

HELD_CELLS = 1 << 24  # texts x layers x experts of one language that are held, one layer at least, at 4 bytes each
READ_CELLS = 1 << 21  # of one language that are read by one query, one shard at least, at about 30 bytes each
TEXTS_AT_ONCE = 1 << 10  # that are compared together
BLOCK = 8  # texts that are mispaired among themselves, at least
SCHEMA = {"run": pl.String, "lang": pl.String, "layer": pl.UInt16, "pairs": pl.Int64} | dict.fromkeys(
    ("divergence", "similarity", "mispaired", "excess"), pl.Float64
)
LEAST = 1e-300  # is added to each half of a probability: 0 ln 0 is 0

Integers = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Run:
    name: str
    num_experts: int
    pivot: str
    layers: list[int]
    languages: list[str]


@dataclass(frozen=True)
class _Pairing:
    """The S texts of a language that the pivot has, by length: int [S].

    - rows, pivot_rows: where each stands among the texts of its language and of the pivot, by seq
    - starts, sizes: where the block of each begins, and how many texts it has
    """

    rows: Integers
    pivot_rows: Integers
    starts: Integers
    sizes: Integers


def compare_translations(
    connection: duckdb.DuckDBPyConnection,
    pivot_lang: str | None,
    languages: Sequence[str] | None,
    layers: Sequence[int] | None,
    derangements: int,
    run: str | None = None,
) -> pl.DataFrame:
    """Return the rows of the view `pivot_similarity`, of one run or of all (None), sorted by run, language and layer.

    Memory holds one language's texts and the pivot's, a few layers at a time. Raises StoreError for a profile with an
    expert that the run's layers do not have.
    """
    runs = [found for found in _runs(connection, pivot_lang, languages, layers) if run in (None, found.name)]
    frames = _frames(connection, runs, derangements)
    return pl.concat([pl.DataFrame(schema=SCHEMA), *frames]).sort("run", "lang", "layer")


def _frames(connection: duckdb.DuckDBPyConnection, runs: Sequence[_Run], derangements: int) -> Iterator[pl.DataFrame]:
    """Yield rows, a language and some layers at a time."""
    for run in runs:
        pivot_seqs = _seqs(connection, run.name, run.pivot)
        own_seqs = {lang: _seqs(connection, run.name, lang) for lang in run.languages}
        pairings = {lang: _pairing(connection, run, own_seqs[lang], lang, pivot_seqs) for lang in run.languages}
        pairings = {lang: pairing for lang, pairing in pairings.items() if len(pairing.rows)}
        largest = max((len(seqs) for seqs in (pivot_seqs, *own_seqs.values())), default=1)
        for some in chunks(run.layers, HELD_CELLS // max(largest * run.num_experts, 1)) if pairings else ():
            pivot_q = _read(connection, run, run.pivot, pivot_seqs, some)
            for lang, pairing in pairings.items():
                q = _read(connection, run, lang, own_seqs[lang], some)
                found = [_of_layer(pairing, q[at], pivot_q[at], derangements) for at in range(len(some))]
                del q  # before the next is read
                yield _frame(run.name, lang, some, found)
            del pivot_q


def _runs(
    connection: duckdb.DuckDBPyConnection,
    pivot_lang: str | None,
    languages: Sequence[str] | None,
    layers: Sequence[int] | None,
) -> list[_Run]:
    query = """
        select
            run,
            num_experts,
            coalesce($pivot, pivot_lang),
            (select list(layer order by layer) from moe_layers where moe_layers.run = runs.run),
            (select list(lang order by lang) from languages where languages.run = runs.run)
        from runs
        where parallel and coalesce($pivot, pivot_lang) is not null
        order by run"""
    with translate_duckdb_errors():
        known = connection.execute(query, {"pivot": pivot_lang}).fetchall()
    return [
        _Run(
            name=name,
            num_experts=experts,
            pivot=pivot,
            layers=[layer for layer in at or () if layers is None or layer in layers],
            languages=[lang for lang in langs or () if lang != pivot and (languages is None or lang in languages)],
        )
        for name, experts, pivot, at, langs in known
    ]


def _seqs(connection: duckdb.DuckDBPyConnection, run: str, lang: str) -> Integers:
    """Return the numbers of a language's texts, ascending."""
    query = "select seq from sequences where run = $run and lang = $lang order by seq"
    return _fetch(connection, query, run=run, lang=lang)["seq"]


def _pairing(
    connection: duckdb.DuckDBPyConnection, run: _Run, seqs: Integers, lang: str, pivot_seqs: Integers
) -> _Pairing:
    query = """
        select text.seq, pivot_text.seq as pivot_seq
        from sequences as text
        inner join sequences as pivot_text using (run, text_id)
        where run = $run and text.lang = $lang and pivot_text.lang = $pivot
        order by pivot_text.tokens, md5(text_id), text_id"""
    shared = _fetch(connection, query, run=run.name, lang=lang, pivot=run.pivot)
    count = len(shared["seq"])
    blocks = max(1, count // BLOCK)
    block = np.arange(count) * blocks // max(count, 1)
    starts, sizes = np.searchsorted(block, np.arange(blocks)), np.bincount(block, minlength=blocks)
    return _Pairing(
        rows=np.searchsorted(seqs, shared["seq"]).astype(np.int32),
        pivot_rows=np.searchsorted(pivot_seqs, shared["pivot_seq"]).astype(np.int32),
        starts=starts[block].astype(np.int32),
        sizes=sizes[block].astype(np.int32),
    )


def _read(
    connection: duckdb.DuckDBPyConnection, run: _Run, lang: str, seqs: Integers, layers: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Return q_i of the texts `seqs` of a language, float32 [layers, S, E]; 0 where a text has none."""
    found = np.zeros((len(layers), len(seqs), run.num_experts), dtype=np.float32)
    flat, at = found.reshape(-1), np.asarray(layers)
    query = """
        select layer, seq, expert, probability
        from profiles
        where
            run = $run and lang = $lang and shard between $first and $last
            and layer between $lowest and $highest and list_contains($layers, layer)"""
    for first, last in _shards(connection, run, lang, len(layers)):
        given = {"first": first, "last": last, "lowest": layers[0], "highest": layers[-1], "layers": layers}
        rows = _fetch(connection, query, run=run.name, lang=lang, **given)
        layer, seq, expert = rows["layer"], rows["seq"], rows["expert"]
        if not len(seq):
            continue
        if expert.max() >= run.num_experts:
            raise StoreError(
                f"run '{run.name}': the profiles of {lang} have an expert {expert.max()}, its layers have "
                f"{run.num_experts}; see `moetrace verify`"
            )
        changes = (seq[1:] != seq[:-1]) | (layer[1:] != layer[:-1])  # a text's experts stand together
        starts = np.flatnonzero(np.concatenate([[True], changes]))
        place = np.minimum(np.searchsorted(seqs, seq[starts]), len(seqs) - 1)
        known = seqs[place] == seq[starts]
        cells = (np.searchsorted(at, layer[starts]) * len(seqs) + place) * run.num_experts
        lengths = np.diff(np.append(starts, len(seq)))
        cell, probability = np.repeat(cells, lengths) + expert, rows["probability"]
        if not known.all():
            of_known = np.repeat(known, lengths)
            cell, probability = cell[of_known], probability[of_known]
        flat[cell] = probability
    return found


def _shards(connection: duckdb.DuckDBPyConnection, run: _Run, lang: str, layers: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of some shards of a language whose profiles are read together."""
    query = "select shard, sequences from shards where run = $run and lang = $lang order by shard"
    shards = _fetch(connection, query, run=run.name, lang=lang)
    some: list[int] = []
    size = 0
    for shard, texts in zip(shards["shard"].tolist(), shards["sequences"].tolist(), strict=True):
        cells = texts * layers * run.num_experts
        if some and size + cells > READ_CELLS:
            yield some[0], some[-1]
            size, some = 0, []
        some.append(shard)
        size += cells
    if some:
        yield some[0], some[-1]


def _of_layer(
    pairing: _Pairing, q: npt.NDArray[np.float32], pivot_q: npt.NDArray[np.float32], derangements: int
) -> tuple[int, float | None, float | None]:
    """Return the pairs of a layer, their mean divergence, and that of mispaired texts; None where there is none."""
    pairs, divergence, mispaired, mispairs = 0, 0.0, 0.0, 0
    for first in range(0, len(pairing.rows), TEXTS_AT_ONCE):
        end = min(first + TEXTS_AT_ONCE, len(pairing.rows))
        own, information = _halves(q[pairing.rows[first:end]])
        sizes = pairing.sizes[first:end]
        shifts = np.minimum(derangements, sizes - 1)
        low, high = int(pairing.starts[first]), int(pairing.starts[end - 1] + pairing.sizes[end - 1])
        others, of_others = _halves(pivot_q[pairing.pivot_rows[low:high]])
        for shift in range(1 + derangements):
            place = np.arange(first, end) - pairing.starts[first:end]
            partner = pairing.starts[first:end] - low + (place + shift) % sizes
            known = (shift < sizes) & ~np.isnan(information) & ~np.isnan(of_others[partner])
            if not known.any():
                continue
            found = _divergence(own, information, others[partner], of_others[partner])
            if shift:
                mispaired += float(np.sum(found[known] / shifts[known]))
                mispairs += int(known.sum())
            else:
                divergence += float(np.sum(found[known]))
                pairs += int(known.sum())
    return pairs, divergence / pairs if pairs else None, mispaired / pairs if pairs and mispairs else None


def _halves(q: npt.NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return q / 2 [S, E] and the sum over experts of q / 2 ln q [S], NaN where a text has no profile."""
    half = q.astype(np.float64) / 2 + LEAST
    information: Floats = np.einsum("se,se->s", half, np.log(2 * half))
    information[~q.any(axis=1)] = np.nan
    return half, information


def _divergence(half: Floats, information: Floats, other: Floats, of_other: Floats) -> Floats:
    """Return the entropy-normalised Jensen-Shannon divergence of each text and its partner."""
    both = half + other
    negative_entropy = information + of_other
    room = np.log(both.shape[1]) + negative_entropy
    jsd = np.maximum(negative_entropy - np.einsum("se,se->s", both, np.log(both)), 0)
    return np.where(room < 1e-8, 0, np.minimum(jsd / np.where(room < 1e-8, 1, room), 1))


def _frame(
    run: str, lang: str, layers: Sequence[int], found: Sequence[tuple[int, float | None, float | None]]
) -> pl.DataFrame:
    columns = zip(layers, *zip(*found, strict=True), strict=True)
    rows = [
        {
            "run": run,
            "lang": lang,
            "layer": layer,
            "pairs": pairs,
            "divergence": divergence,
            "similarity": 1 - divergence,
            "mispaired": None if mispaired is None else 1 - mispaired,
            "excess": None if mispaired is None else mispaired - divergence,
        }
        for layer, pairs, divergence, mispaired in columns
        if pairs
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _fetch(connection: duckdb.DuckDBPyConnection, query: str, **values: object) -> dict[str, npt.NDArray[Any]]:
    with translate_duckdb_errors():
        found: dict[str, npt.NDArray[Any]] = connection.execute(query, values).fetchnumpy()
    return found

"""Second moments over texts of shards that were written before `usage` had them, computed from their routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import StoreError
from moetrace.store.format.schema import ADDED_COLUMNS, MOMENTS_SINCE
from moetrace.store.read.usage_files import usage_rows
from moetrace.store.read.verified import VerifiedFile
from moetrace.store.shard.text_counts import TextCounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moetrace.store.format.records import CommitRecord, FileRecord, RunRecord
    from moetrace.store.read.catalog import Catalog

NAMES = tuple(ADDED_COLUMNS[MOMENTS_SINCE]["usage"])
SOURCES = ("sequences", "tokens", "routes")  # tables that they are computed from

Moments = dict[str, npt.NDArray[np.float64]]  # by column, [L * E] in the order of `usage`


def moments_in(rows: pa.Table) -> Moments | None:
    """Return the columns of a roll-up; None where it lacks them."""
    if any(name not in rows.schema.names or rows.column(name).null_count for name in NAMES):
        return None
    return {name: rows.column(name).to_numpy() for name in NAMES}


def with_moments(rows: pa.Table, moments: Moments) -> pa.Table:
    """Return a roll-up with other moments."""
    for name in NAMES:
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(name), pa.array(moments[name]))
    return rows


def added_moments(parts: Iterable[Moments]) -> Moments:
    """Return sums of moments, at least one; of whole numbers, which sum to the same in any order below 2^53."""
    added: Moments = {}
    for part in parts:
        added = {name: added[name] + part[name] for name in NAMES} if added else part
    return added


def shard_moments(catalog: Catalog, record: RunRecord, commit: CommitRecord) -> Moments:
    """Return the moments of a shard: those of its roll-up or, where that lacks them, of its routes.

    In memory are its tokens and one layer. Raises StoreError where a file is damaged, or contradicts another one.
    """
    files = {file.table: file for file in commit.files}
    rows = usage_rows(catalog, record, files["usage"], commit.version or catalog.format.oldest)
    known = moments_in(rows)
    if known is not None:
        return known
    where = f"{catalog.url}: {files['routes'].path}"
    try:
        computed = _from_routes(catalog, record, files)
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(f"{where}: cannot be counted ({what}); see `moetrace verify`") from error
    if not np.array_equal(computed.pop("count"), rows.column("count").to_numpy()):
        raise StoreError(f"{where}: its decisions are not what the roll-up counts; see `moetrace verify`")
    return computed


def _from_routes(catalog: Catalog, record: RunRecord, files: dict[str, FileRecord]) -> Moments:
    """Return the moments, and `count`, of every layer, one after another."""
    lengths, order = _texts(catalog, files)
    total, top_k, experts = len(order), record.top_k, record.num_experts
    counts, layers = TextCounts(lengths, top_k, experts), []
    where = f"{catalog.url}: {files['routes'].path}"
    with _open(catalog, files["routes"]) as parquet:
        if parquet.metadata.num_row_groups != len(record.moe_layers):
            raise StoreError(f"{where}: does not have a row group for each layer; see `moetrace verify`")
        for index, layer in enumerate(record.moe_layers):
            rows = parquet.read_row_group(index, columns=["layer", "token", "expert"])
            shape = (top_k, total)
            token, expert = (rows.column(name).to_numpy().reshape(shape) for name in ("token", "expert"))
            if (
                np.any(rows.column("layer").to_numpy() != layer)
                or np.any(token != np.arange(total))
                or int(expert.max()) >= experts
            ):
                raise StoreError(f"{where}: row group {index} is not layer {layer} as written; see `moetrace verify`")
            layers.append(counts.add_up(expert[:, order]))
    return {name: np.concatenate([sums[name] for sums in layers]) for name in ("count", *NAMES)}


def _texts(catalog: Catalog, files: dict[str, FileRecord]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Return the tokens of each text, and the numbers of all tokens, text after text."""
    with _open(catalog, files["sequences"]) as parquet:
        texts = parquet.read(columns=["seq", "tokens"])
    with _open(catalog, files["tokens"]) as parquet:
        rows = parquet.read(columns=["token", "seq"])
    seqs, lengths = (texts.column(name).to_numpy().astype(np.int64) for name in ("seq", "tokens"))
    token, seq = (rows.column(name).to_numpy() for name in ("token", "seq"))
    by_seq = np.argsort(seqs)
    text = by_seq[np.minimum(np.searchsorted(seqs, seq, sorter=by_seq), len(seqs) - 1)]
    if (
        not np.array_equal(seqs[text], seq)
        or not np.array_equal(np.bincount(text, minlength=len(seqs)), lengths)
        or not np.array_equal(np.sort(token), np.arange(len(token)))
    ):
        raise StoreError(
            f"{catalog.url}: {files['tokens'].path}: has other tokens than its texts; see `moetrace verify`"
        )
    return lengths, token[np.argsort(text, kind="stable")]


def _open(catalog: Catalog, file: FileRecord) -> pq.ParquetFile:
    return pq.ParquetFile(VerifiedFile(catalog, file))

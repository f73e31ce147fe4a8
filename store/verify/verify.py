"""Checking a store: every file against its commit record, and what is in it against what a trace must be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from moetrace.store.errors import CaptureError, MoetraceError, StoreError
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord
from moetrace.store.format.schema import ADDED_COLUMNS, tables
from moetrace.store.read.reader import Store
from moetrace.store.read.verified import VerifiedFile, read_verified
from moetrace.store.shard.shard import check_layer
from moetrace.store.storage.claims import living_claims
from moetrace.store.storage.storage import open_storage
from moetrace.store.write.compact import read_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from moetrace.store.format.records import FileRecord, RunRecord
    from moetrace.store.storage.storage import Entry

PIECE = 1 << 22  # bytes hashed at a time
SUM_TOLERANCE = 1e-9  # relative: the same numbers added up in another order
PROFILE_TOLERANCE = 1e-3  # of a profile's sum, as in a capture


@dataclass(frozen=True)
class Problem:
    """Something wrong with one shard, or with a record."""

    path: str
    what: str
    commit: str | None = None


@dataclass
class Verdict:
    """What a check found.

    - shards, files, bytes: what was checked
    - problems: what is wrong, shard by shard; none in a good store
    - orphans: data files that no commit record names, left by a writer that died or is at work; they do no harm
    - unfinished: folders of shards that were being written; claims: shards that a living process is doing
    - dropped: commit records that were removed so that the next trace does those shards again
    """

    shards: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def verify(
    place: str | Path,
    *,
    quick: bool = False,
    repair: bool = False,
    on_shard: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Check every shard of a store; one that is bad does not keep the others from being checked.

    `quick` looks at sizes, footers and schemas only. `repair` removes the commit records of bad shards: their data
    stay as orphans until the next trace has done the shards again. `on_shard` is told how many of how many are done.

    Raises StoreError where there is no store at `place`.
    """
    store = Store(open_storage(place))
    verdict = Verdict()
    listed = {entry.path: entry for entry in store.storage.listing()}
    runs = _run_records(store, listed, verdict)
    commits = [path for path in listed if path.startswith(f"{layout.COMMITS}/") and layout.SHARD_FILE.search(path)]
    named: set[str] = set()
    for number, path in enumerate(sorted(commits)):
        checker = _ShardChecker(store, runs, path, listed, verdict)
        found = [Problem(where, what, path) for where, what in checker.problems(quick=quick)]
        named |= checker.named
        verdict.problems += found
        verdict.shards += 1
        if found and repair:
            store.storage.delete(path)
            verdict.dropped.append(path)
        if on_shard:
            on_shard(number + 1, len(commits))
    for run in runs:
        index = read_index(store.storage, run)
        if index is not None:
            named.add(index.data.path)
            verdict.problems += [Problem(where, what) for where, what in _check_compact(store, index.data)]
    data = [*tables(1), layout.COMPACT]
    verdict.orphans = [
        path for path in listed if path.split("/")[0] in data and path.endswith(".parquet") and path not in named
    ]
    verdict.unfinished = store.storage.unfinished()
    verdict.claims = living_claims(store.storage)
    return verdict


def _run_records(store: Store, listed: dict[str, Entry], verdict: Verdict) -> dict[str, RunRecord]:
    from moetrace.store.format.records import RunRecord  # noqa: PLC0415

    found = {}
    for path in listed:
        if path.startswith(f"{layout.RUNS}/") and path.endswith(".json"):
            try:
                record = RunRecord.from_json(store.storage.read(path), path)
                tables(record.num_experts)
                found[record.run] = record
            except (MoetraceError, KeyError, TypeError, ValueError) as error:
                verdict.problems.append(Problem(path, f"the run record is damaged ({error})"))
    return found


def _check_compact(store: Store, file: FileRecord) -> Iterator[tuple[str, str]]:
    try:
        read_verified(store, file, 0, file.bytes)
    except StoreError as error:
        yield file.path, f"{_reason(error)}; make it again with `moetrace compact`"


class _ShardChecker:
    """Checks one shard; `named` are the files that its commit record names."""

    def __init__(
        self, store: Store, runs: dict[str, RunRecord], path: str, listed: dict[str, Entry], verdict: Verdict
    ) -> None:
        self.named: set[str] = set()
        self._store, self._runs, self._path, self._listed, self._verdict = store, runs, path, listed, verdict

    def problems(self, *, quick: bool) -> Iterator[tuple[str, str]]:
        """Yield path and reason of everything that is wrong."""
        try:
            commit = CommitRecord.from_json(self._store.storage.read(self._path), self._path)
        except (StoreError, OSError) as error:
            yield self._path, f"the commit record is damaged ({_reason(error)})"
            return
        self.named = {file.path for file in commit.files}
        if (commit.run, commit.lang, commit.shard) != layout.shard_of(self._path):
            yield self._path, f"is the record of {commit.run}, {commit.key}"
            return
        record = self._runs.get(commit.run)
        if record is None:
            yield self._path, f"the record of run '{commit.run}' is missing or damaged"
            return
        if record.sha256() != commit.run_sha256:
            yield self._path, f"was traced under another record of run '{commit.run}'"
        if sorted(file.table for file in commit.files) != sorted(record.tables):
            yield self._path, "does not name the tables that the run record promises"
            return
        version = commit.version or self._store.oldest_version
        bad = False
        for file in commit.files:
            self._verdict.files += 1
            self._verdict.bytes += file.bytes
            for reason in self._file_problems(file, record, version, quick=quick):
                bad = True
                yield file.path, reason
        if not bad and not quick:
            yield from self._content_problems(commit, record, version)

    def _file_problems(self, file: FileRecord, record: RunRecord, version: int, *, quick: bool) -> Iterator[str]:
        found = self._listed.get(file.path)
        if found is None:
            yield "is missing"
            return
        if found.bytes != file.bytes:
            yield f"has {found.bytes} bytes, the commit record says {file.bytes}"
            return
        if not quick and (digest := self._sha256(file)) != file.sha256:
            yield f"its SHA-256 is {digest[:12]}…, the commit record says {file.sha256[:12]}…"
            return
        try:
            with self._open(file) as parquet:
                rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        except (OSError, pa.ArrowException, StoreError) as error:
            yield f"is not a Parquet file ({_reason(error)})"
            return
        if rows != file.rows:
            yield f"has {rows} rows, the commit record says {file.rows}"
        expected = _schema_of(file.table, record, version)
        if [(field.name, field.type) for field in schema] != [(field.name, field.type) for field in expected]:
            yield f"has columns {', '.join(schema.names)}; expected {', '.join(expected.names)}, or their types differ"

    def _sha256(self, file: FileRecord) -> str:
        digest = hashlib.sha256()
        for start in range(0, file.bytes, PIECE):
            digest.update(self._store.storage.read_range(file.path, start, min(start + PIECE, file.bytes)))
        return digest.hexdigest()

    def _open(self, file: FileRecord) -> pq.ParquetFile:
        return pq.ParquetFile(VerifiedFile(self._store, file), page_checksum_verification=True)

    def _content_problems(self, commit: CommitRecord, record: RunRecord, version: int) -> Iterator[tuple[str, str]]:
        """Yield what the numbers say against themselves; every file is known to be what was written."""
        files = {file.table: file for file in commit.files}
        content = _Content(record, commit, {name: self._open(file) for name, file in files.items()}, version)
        for name in ("sequences", "tokens", "profiles", "usage", "routes"):
            if name in files:
                try:
                    for reason in getattr(content, name)():
                        yield files[name].path, reason
                except (MoetraceError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
                    yield files[name].path, f"cannot be checked ({_reason(error)})"


class _Content:
    """The invariants of one shard's tables; each method yields what is wrong with one of them."""

    def __init__(self, record: RunRecord, commit: CommitRecord, files: dict[str, pq.ParquetFile], version: int) -> None:
        self._record, self._commit, self._files, self._version = record, commit, files, version
        self._counted_only = "sequences" not in files
        self._lengths: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._seqs: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._text_of_token: npt.NDArray[np.int64] | None = None
        self._usage: dict[str, npt.NDArray[Any] | None] = {}

    def sequences(self) -> Iterator[str]:
        """Check that texts have tokens, different numbers, and add up."""
        rows = self._files["sequences"].read()
        self._seqs, self._lengths = _numbers(rows, "seq"), _numbers(rows, "tokens")
        if len(rows) != self._commit.sequences:
            yield f"has {len(rows)} texts, the commit record says {self._commit.sequences}"
        if int(self._lengths.sum()) != self._commit.tokens:
            yield f"its texts have {int(self._lengths.sum())} tokens, the commit record says {self._commit.tokens}"
        if len(np.unique(self._seqs)) != len(rows) or (len(rows) and int(self._lengths.min()) < 1):
            yield "a text stands twice, or has no tokens"
        if self._version >= min(ADDED_COLUMNS) and np.any(_numbers(rows, "generated") > self._lengths):
            yield "a text has more generated tokens than tokens"

    def tokens(self) -> Iterator[str]:
        """Check that every position of every text is there once."""
        rows = self._files["tokens"].read()
        total = int(self._lengths.sum())
        token, seq, position = (_numbers(rows, name) for name in ("token", "seq", "position"))
        if len(rows) != total or not np.array_equal(np.sort(token), np.arange(total)):
            yield f"does not have each of the {total} tokens of its texts once"
            return
        order = np.argsort(self._seqs)
        at = np.searchsorted(self._seqs, seq, sorter=order)
        if np.any(at >= len(order)) or np.any(self._seqs[order[np.minimum(at, len(order) - 1)]] != seq):
            yield "has tokens of a text that the shard does not have"
            return
        text = order[at]
        starts = np.cumsum(self._lengths) - self._lengths
        if np.any(position < 0) or np.any(position >= self._lengths[text]):
            yield "has a position outside its text"
            return
        if len(np.unique(starts[text] + position)) != total:
            yield "has a position twice"
            return
        ids = rows.column("token_id")
        if ids.null_count < len(ids) and int(ids.drop_null().to_numpy().min()) < 0:
            yield "has a negative token id"
        self._text_of_token = np.empty(total, dtype=np.int64)
        self._text_of_token[token] = text

    def profiles(self) -> Iterator[str]:
        """Check that each text has a probability distribution for each layer."""
        rows = self._files["profiles"].read()
        shape = (len(self._record.moe_layers), len(self._seqs), self._record.num_experts)
        if len(rows) != np.prod(shape):
            yield f"has {len(rows)} rows, not {shape[0]} layers x {shape[1]} texts x {shape[2]} experts"
            return
        layer, seq, expert = (_numbers(rows, name).reshape(shape) for name in ("layer", "seq", "expert"))
        if (
            np.any(layer != np.asarray(self._record.moe_layers)[:, None, None])
            or np.any(seq != self._seqs[None, :, None])
            or np.any(expert != np.arange(shape[2]))
        ):
            yield "is not in the order of layers, texts and experts"
            return
        probability = rows.column("probability").to_numpy().reshape(shape)
        sums = probability.sum(axis=2, dtype=np.float64)
        if not np.all(np.isfinite(sums)) or probability.min() < 0 or np.abs(sums - 1).max() > PROFILE_TOLERANCE:
            yield "a profile is not a probability distribution"
            return
        wide = probability.astype(np.float64)
        self._usage["sequence_probability_sum"] = wide.sum(axis=1)
        self._usage["probability_sum"] = np.einsum("lse,s->le", wide, self._lengths.astype(np.float64))

    def usage(self) -> Iterator[str]:
        """Check the roll-up by itself and against the profiles; `routes` checks it against a recount."""
        rows = self._files["usage"].read()
        shape = (len(self._record.moe_layers), self._record.num_experts)
        if len(rows) != np.prod(shape):
            yield f"has {len(rows)} rows, not {shape[0]} layers x {shape[1]} experts"
            return
        if np.any(_numbers(rows, "layer").reshape(shape) != np.asarray(self._record.moe_layers)[:, None]) or np.any(
            _numbers(rows, "expert").reshape(shape) != np.arange(shape[1])
        ):
            yield "is not in the order of layers and experts"
            return
        expected, self._usage = self._usage, {}
        for name in rows.schema.names[2:]:
            column = rows.column(name)
            self._usage[name] = None if column.null_count else column.to_numpy().reshape(shape)
        count = self._usage["count"]
        decisions = self._commit.tokens * self._record.top_k
        tolerance = 0 if not self._counted_only else 1e-3 * decisions
        if count is None or count.min() < 0 or np.abs(count.sum(axis=1) - decisions).max() > tolerance:
            yield f"counts of a layer do not sum to {decisions}"
        for name, values in expected.items():
            if values is not None and not _same(self._usage[name], values):
                yield f"{name} is not what the profiles add up to"

    def routes(self) -> Iterator[str]:
        """Check every decision, and the roll-up against a recount, a layer at a time."""
        parquet, record = self._files["routes"], self._record
        count, top_k, total = parquet.metadata.num_row_groups, record.top_k, self._commit.tokens
        if count != len(record.moe_layers):
            yield f"has {count} row groups, the model {len(record.moe_layers)} MoE layers"
            return
        for index, layer in enumerate(record.moe_layers):
            rows = parquet.read_row_group(index)
            if len(rows) != total * top_k:
                yield f"layer {layer} has {len(rows)} rows, {total} tokens x top-{top_k} are {total * top_k}"
                return
            experts = rows.column("expert").to_numpy().reshape(top_k, total)
            weights = rows.column("weight").to_numpy().reshape(top_k, total)
            token = rows.column("token").to_numpy().reshape(top_k, total)
            rank = rows.column("rank").to_numpy().reshape(top_k, total)
            if np.any(rows.column("layer").to_numpy() != layer):
                yield f"row group {index} is not layer {layer}"
            if np.any(rank != np.arange(top_k)[:, None]) or np.any(token != np.arange(total)):
                yield f"layer {layer} is not in the order of ranks and tokens"
            tied = weights[1:] == weights[:-1]
            if np.any(weights[1:] > weights[:-1]) or np.any(tied & (experts[1:] < experts[:-1])):
                yield f"layer {layer}: ranks do not follow the gate weights"
            try:
                check_layer(experts, weights, record, f"layer {layer}")
            except CaptureError as error:
                yield str(error)
                continue
            yield from self._recount(index, layer, experts, weights)

    def _recount(
        self, index: int, layer: int, experts: npt.NDArray[Any], weights: npt.NDArray[np.float32]
    ) -> Iterator[str]:
        size, texts = self._record.num_experts, len(self._lengths)
        flat = experts.ravel().astype(np.int64)
        counts = np.bincount(flat, minlength=size)
        sums = {"count": counts, "weight_sum": np.bincount(flat, weights.ravel().astype(np.float64), minlength=size)}
        if self._text_of_token is not None:
            bins = self._text_of_token[None, :] * size + experts
            by_text = np.bincount(bins.ravel(), minlength=texts * size).reshape(texts, size)
            shares = by_text / (self._lengths * float(self._record.top_k))[:, None]
            sums["sequence_share_sum"] = shares.sum(axis=0)
        for name, values in sums.items():
            stored = self._usage.get(name)
            if stored is None or not _same(stored[index], values):
                yield f"layer {layer}: {name} of the roll-up is not what the routes add up to"


def _numbers(rows: pa.Table, name: str) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = rows.column(name).to_numpy().astype(np.int64)
    return values


def _same(stored: npt.NDArray[Any] | None, recounted: npt.NDArray[Any]) -> bool:
    if stored is None:
        return False
    if stored.dtype.kind in "iu":
        return np.array_equal(stored, recounted)
    return bool(np.allclose(stored, recounted, rtol=SUM_TOLERANCE, atol=SUM_TOLERANCE))


def _schema_of(table: str, record: RunRecord, version: int) -> pa.Schema:
    schema = tables(record.num_experts)[table].schema
    for added, columns in ADDED_COLUMNS.items():
        if added > version:
            for name in columns.get(table, {}):
                schema = schema.remove(schema.get_field_index(name))
    return schema


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

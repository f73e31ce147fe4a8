"""What the tables of a shard must say, each by itself and one against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import CaptureError
from moetrace.store.format.schema import ADDED_COLUMNS, MOMENTS_SINCE
from moetrace.store.shard.shard import check_layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    import pyarrow.parquet as pq

    from moetrace.store.format.records import CommitRecord, RunRecord

SUM_TOLERANCE = 1e-9  # relative: the same numbers added up in another order
MOST_POSITIONS = 1 << 31  # of a text: positions are int32
PROFILE_TOLERANCE = 1e-3  # of a profile's sum, as in a capture


class ShardContent:
    """The invariants of one shard's tables; each method yields what is wrong with one of them."""

    def __init__(self, record: RunRecord, commit: CommitRecord, files: dict[str, pq.ParquetFile], version: int) -> None:
        self._record, self._commit, self._files, self._version = record, commit, files, version
        self._counted_only = "sequences" not in files
        self._lengths: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._seqs: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._text_of_token: npt.NDArray[np.int64] | None = None
        self._usage: dict[str, npt.NDArray[Any] | None] = {}

    def sequences(self) -> Iterator[str]:
        """Check that texts have tokens and numbers of their own, and that they sum to what the commit record says."""
        rows = self._files["sequences"].read()
        self._seqs, self._lengths = _numbers(rows, "seq"), _numbers(rows, "tokens")
        if len(rows) != self._commit.sequences:
            yield f"has {len(rows)} texts, the commit record says {self._commit.sequences}"
        if int(self._lengths.sum()) != self._commit.tokens:
            yield f"its texts have {int(self._lengths.sum())} tokens, the commit record says {self._commit.tokens}"
        if len(np.unique(self._seqs)) != len(rows) or (len(rows) and int(self._lengths.min()) < 1):
            yield "a text stands twice, or has no tokens"
        if self._version >= min(ADDED_COLUMNS):
            generated = _numbers(rows, "generated")
            if np.any(generated > self._lengths):
                yield "a text has more generated tokens than tokens"
            if self._record.settings.get("prompt_only") and generated.any():
                yield "a text has generated tokens, which the run leaves out"

    def tokens(self) -> Iterator[str]:
        """Check that every position of every text that the run does not leave out is there once."""
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
        first, last = self._positions(text)
        if np.any(position < first) or np.any(position > last):
            yield "has a position outside its text"
            return
        if len(np.unique(text << 32 | position)) != total:
            yield "has a position twice"
            return
        ids = rows.column("token_id")
        if ids.null_count < len(ids) and int(ids.drop_null().to_numpy().min()) < 0:
            yield "has a negative token id"
        special = self._record.special_token_ids
        if self._record.settings.get("skip_special") and special and np.isin(ids.drop_null().to_numpy(), special).any():
            yield "has a special token, which the run leaves out"
        if self._record.settings.get("prompt_only") and rows.column("generated").to_numpy().any():
            yield "has a generated token, which the run leaves out"
        self._text_of_token = np.empty(total, dtype=np.int64)
        self._text_of_token[token] = text

    def _positions(self, text: npt.NDArray[np.intp]) -> tuple[int, npt.NDArray[np.int64]]:
        """Return the first position that tokens may have, and the last of each token, of so many texts' index.

        Where special tokens are left out, there are gaps, of which nobody knows how many: the window is the limit.
        """
        first = int(self._record.settings.get("skip_positions", 0))
        last = first + self._lengths[text] - 1
        if self._record.settings.get("skip_special"):
            engine = self._record.settings.get("engine")
            window = engine.get("max_model_len") if isinstance(engine, dict) else None
            last = np.full(len(text), window if isinstance(window, int) else MOST_POSITIONS, dtype=np.int64) - 1
        return first, last

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
        least, error = probability.min(initial=0), np.abs(sums - 1).max(initial=0)
        if not np.all(np.isfinite(sums)) or least < 0 or error > PROFILE_TOLERANCE:
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
        if self._version >= MOMENTS_SINCE and not self._counted_only:
            squares = float(np.square(self._lengths * float(self._record.top_k)).sum())
            products = self._usage["count_decisions_sum"]
            if products is None or not np.allclose(products.sum(axis=1), squares, rtol=SUM_TOLERANCE):
                yield f"count_decisions_sum of a layer does not sum to {squares:.0f}"
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
            decisions = self._lengths * float(self._record.top_k)
            bins = self._text_of_token[None, :] * size + experts
            by_text = np.bincount(bins.ravel(), minlength=texts * size).reshape(texts, size)
            sums["sequence_share_sum"] = (by_text / decisions[:, None]).sum(axis=0)
            if self._version >= MOMENTS_SINCE:
                sums["count_squared_sum"] = np.square(by_text).sum(axis=0)
                sums["count_decisions_sum"] = (by_text * decisions[:, None]).sum(axis=0)
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

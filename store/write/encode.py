"""Turning a shard into the row groups of each table; of decisions, one layer at a time is in memory a second time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moetrace.store.errors import CaptureError
from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.schema import Table, routes, tables
from moetrace.store.format.weights import round_weights
from moetrace.store.shard.ranking import LayerRanking
from moetrace.store.shard.rollup import UsageRollup
from moetrace.store.shard.shard import Shard, token_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moetrace.store.format.records import RunRecord
    from moetrace.store.write.files import RowGroups

    TableRows = Iterator[tuple[Table, RowGroups]]

PROFILE_ROWS = 1 << 17  # of a row group


def shard_tables(shard: Shard, record: RunRecord) -> TableRows:
    """Yield each table of the run with its row groups; write a table's before asking for the next.

    `usage` comes last: it is added up while the row groups of `routes` are made.
    """
    layer_rows = shard.tokens * record.top_k
    schemas = {**tables(record.num_experts), "routes": routes(record.num_experts, layer_rows)}
    precision = record.settings["weight_precision"]
    ranking = LayerRanking(shard.tokens, record.top_k, record.num_experts, precision)
    first = round_weights(shard.weights[0], precision)
    ranking.rank(shard.experts[0], first, np.arange(shard.tokens))
    order = token_order(shard.token_ids, ranking.experts, record.num_experts)
    rollup = UsageRollup(shard, record)
    makers: dict[str, Callable[[], RowGroups]] = {
        "sequences": lambda: _sequence_rows(shard, schemas["sequences"]),
        "tokens": lambda: _token_rows(shard, order, schemas["tokens"]),
        "routes": lambda: _route_rows(shard, record, order, schemas["routes"], ranking, rollup),
        "profiles": lambda: _profile_rows(shard, record, schemas["profiles"]),
        "usage": rollup.table,
    }
    if "routes" not in record.tables:
        for _ in makers["routes"]():
            pass
    for name, rows in makers.items():
        if name in record.tables:
            yield schemas[name], rows()


def _route_rows(
    shard: Shard,
    record: RunRecord,
    order: npt.NDArray[np.intp],
    table: Table,
    ranking: LayerRanking,
    rollup: UsageRollup,
) -> RowGroups:
    """Yield one row group a layer, sorted by rank, then token, and add each layer to the roll-up.

    Every row group is the same table, a view of memory that the next layer overwrites: write it before the next.
    """
    count, top_k = shard.tokens, record.top_k
    layer_of = np.empty(count * top_k, dtype=np.uint16)
    token = np.tile(np.arange(count, dtype=np.int32), top_k)
    rank = np.repeat(np.arange(top_k, dtype=np.uint8), count)
    rounded = np.empty((top_k, count), dtype=np.float32)
    columns: list[npt.NDArray[Any]] = [layer_of, token, rank, ranking.experts.ravel(), ranking.weights.ravel()]
    rows = pa.Table.from_arrays(
        [
            pa.Array.from_buffers(field.type, len(values), [None, pa.py_buffer(values)])
            for field, values in zip(table.schema, columns, strict=True)
        ],
        schema=table.schema,
    )
    for index, layer in enumerate(record.moe_layers):
        captured = shard.experts[index]
        round_weights(shard.weights[index], record.settings["weight_precision"], out=rounded)
        rollup.add_layer(captured, rounded)
        ranking.rank(captured, rounded, order)
        layer_of.fill(layer)
        yield rows


def _profile_rows(shard: Shard, record: RunRecord, table: Table) -> RowGroups:
    """Yield rows by layer, sequence, expert; a row group has as many layers as are worth its overhead."""
    if shard.profiles is None:
        raise CaptureError(f"{shard.lang} shard {shard.number}: the run record promises profiles, none were captured")
    texts, size = len(shard.seqs), record.num_experts
    together = max(1, PROFILE_ROWS // max(1, texts * size))
    expert = np.tile(np.arange(size, dtype=expert_dtype(size)), texts)
    seq = np.repeat(shard.seqs.astype(np.int32), size)
    for start in range(0, len(record.moe_layers), together):
        layers = np.array(record.moe_layers[start : start + together], dtype=np.uint16)
        probability = shard.profiles[start : start + together].ravel()
        columns = [
            np.tile(seq, len(layers)),
            np.repeat(layers, len(seq)),
            np.tile(expert, len(layers)),
            probability,
        ]
        yield _table(table, columns)


def _sequence_rows(shard: Shard, table: Table) -> RowGroups:
    generated = np.zeros(len(shard.seqs), np.int32) if shard.generated is None else shard.generated
    written = [None] * len(shard.seqs) if shard.texts is None else shard.texts
    yield _table(table, [shard.seqs, shard.text_ids, shard.lengths, shard.truncated, generated, written])


def _token_rows(shard: Shard, order: np.ndarray, table: Table) -> RowGroups:
    seq = shard.seqs[shard.sequence_of_token()]
    number = np.arange(shard.tokens, dtype=np.int32)
    token_ids = pa.nulls(shard.tokens) if shard.token_ids is None else shard.token_ids[order]
    yield _table(table, [number, seq[order], shard.positions()[order], token_ids, shard.generated_tokens()[order]])


def _table(table: Table, columns: Sequence[object]) -> pa.Table:
    arrays = [pa.array(values, field.type) for values, field in zip(columns, table.schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=table.schema)

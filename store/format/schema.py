"""The tables of a store: every column, its type and meaning, and how it is encoded in Parquet.

The Parquet settings of `routes` were measured on DeepSeek-V2-Lite traces and on synthetic 48-layer ones, the tables
of `make bench-store`; FLOAT16 and list columns are left out on purpose (DuckDB cannot read FLOAT16 with
BYTE_STREAM_SPLIT; unnest slows roll-ups).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from moetrace.store.format import layout
from moetrace.store.format.expert_ids import expert_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT_VERSION = 5
TABLE_NAMES = layout.TABLE_NAMES

# Rows of a layer at which a byte of all its weights fills half a block of zstd, which has one Huffman table a block.
BLOCKS_OF_WEIGHTS = 1 << 16

MOMENTS_SINCE = 5  # format version in which `usage` has sums over texts of c^2 and c t

# Columns that stores of an older version lack: version that brought them -> table -> column -> SQL of what it was.
ADDED_COLUMNS = {
    2: {"sequences": {"generated": "0", "text": "null::varchar"}, "tokens": {"generated": "false"}},
    MOMENTS_SINCE: {"usage": {"count_squared_sum": "null::double", "count_decisions_sum": "null::double"}},
}


def column(name: str, kind: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    """Return a field that carries its description in the file's own metadata."""
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, the encodings that are not Parquet's default, and how columns are compressed.

    `levels` are the zstd levels of columns for which it is not 1.
    """

    name: str
    schema: pa.Schema
    byte_stream_split: tuple[str, ...] = ()
    delta: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    codec: str = "zstd"
    levels: Mapping[str, int] = field(default_factory=dict)

    def schema_in(self, version: int) -> pa.Schema:
        """Return the schema of a file that was written in a format version, which may lack columns."""
        added = (columns.get(self.name, {}) for since, columns in ADDED_COLUMNS.items() if since > version)
        lacking = {name for columns in added for name in columns}
        return pa.schema([field for field in self.schema if field.name not in lacking])

    @property
    def compression(self) -> dict[str, Any]:
        """Return the writer's options for the codec and its level."""
        if self.codec != "zstd":
            return {"compression": self.codec}
        return {
            "compression": "zstd",
            "compression_level": {name: self.levels.get(name, 1) for name in self.schema.names},
        }

    @property
    def encodings(self) -> dict[str, str]:
        """Return column -> explicit Parquet encoding."""
        return {
            **dict.fromkeys(self.byte_stream_split, "BYTE_STREAM_SPLIT"),
            **dict.fromkeys(self.delta, "DELTA_BINARY_PACKED"),
        }


LAYER = column("layer", pa.uint16(), "the decoder layer's own index")


def _expert(num_experts: int) -> pa.Field:
    return column("expert", pa.from_numpy_dtype(expert_dtype(num_experts)), "logical expert id")


def sequences() -> Table:
    """One row is one text of one language."""
    return Table(
        "sequences",
        pa.schema(
            [
                column("seq", pa.int32(), "number of the text in its language, counted over all shards"),
                column("text_id", pa.string(), "id of the text, the same across languages"),
                column("tokens", pa.int32(), "tokens of the text that were traced"),
                column("truncated", pa.bool_(), "whether the text was cut to the model's window"),
                column("generated", pa.int32(), "how many of the tokens, the last ones, the model generated itself"),
                column("text", pa.string(), "what the model generated; null where it was not asked to", nullable=True),
            ]
        ),
        delta=("seq", "tokens", "generated"),
        statistics=("seq",),
        codec="lz4",  # the table is small: starting zstd would take longer than compressing
    )


def tokens() -> Table:
    """One row is one token of a shard."""
    return Table(
        "tokens",
        pa.schema(
            [
                column("token", pa.int32(), "number of the token in its shard, in an order that compresses well"),
                column("seq", pa.int32(), "the text it belongs to"),
                column("position", pa.int32(), "its position in the text, from 0"),
                column(
                    "token_id",
                    pa.int32(),
                    "its id in the tokenizer's vocabulary; null: unknown",
                    nullable=True,
                ),
                column("generated", pa.bool_(), "whether the model generated it; false: it stood in the prompt"),
            ]
        ),
        delta=("token", "token_id"),
        byte_stream_split=("seq", "position"),
        statistics=("token", "seq"),
    )


def routes(num_experts: int, layer_rows: int = BLOCKS_OF_WEIGHTS) -> Table:
    """One row is one routing decision, a (layer, token, rank); one row group is one layer of `layer_rows` rows.

    zstd's longer search costs time: for ids it pays wherever tokens are alike, because it also cuts blocks where they
    change; for weights only where layers are so small that their different bytes share a block.
    """
    searched = ("expert",) if layer_rows >= BLOCKS_OF_WEIGHTS else ("expert", "weight")
    return Table(
        "routes",
        pa.schema(
            [
                LAYER,
                column("token", pa.int32(), "number of the token in its shard"),
                column("rank", pa.uint8(), "0 = highest gate weight"),
                _expert(num_experts),
                column("weight", pa.float32(), "gate weight as the layer applies it, routed scaling factor included"),
            ]
        ),
        # layer and rank are long runs: plain and zstd make them as small as any encoding, at a third of the time.
        byte_stream_split=("token", "expert", "weight"),
        # Every row group has all ranks: bounds tell nothing. Those of token let DuckDB join by position, not by hash.
        statistics=("layer", "token"),
        levels={"layer": -1, "rank": -1, **dict.fromkeys(searched, 3)},
    )


def profiles(num_experts: int) -> Table:
    """One row is one expert of one MoE layer for one sequence."""
    return Table(
        "profiles",
        pa.schema(
            [
                column("seq", pa.int32(), "the text"),
                LAYER,
                _expert(num_experts),
                column("probability", pa.float32(), "mean over the text's tokens of the full router probability"),
            ]
        ),
        byte_stream_split=("seq", "probability"),
        statistics=("layer", "seq"),
    )


def usage(num_experts: int) -> Table:
    """One row is one expert of one MoE layer in one shard, zeros included; rows add up over shards."""
    return Table(
        "usage",
        pa.schema(
            [
                LAYER,
                _expert(num_experts),
                column("count", pa.int64(), "tokens routed to the expert"),
                column("weight_sum", pa.float64(), "sum of the applied gate weights", nullable=True),
                column(
                    "sequence_share_sum",
                    pa.float64(),
                    "sum over sequences of count / (tokens * top_k)",
                    nullable=True,
                ),
                column(
                    "probability_sum",
                    pa.float64(),
                    "sum over tokens of the full router probability",
                    nullable=True,
                ),
                column(
                    "sequence_probability_sum",
                    pa.float64(),
                    "sum over sequences of their mean router probability",
                    nullable=True,
                ),
                column(
                    "count_squared_sum",
                    pa.float64(),
                    "sum over sequences of the square of their count",
                    nullable=True,
                ),
                column(
                    "count_decisions_sum",
                    pa.float64(),
                    "sum over sequences of count * tokens * top_k",
                    nullable=True,
                ),
            ]
        ),
        codec="lz4",
    )


def rollups(num_experts: int) -> Table:
    """One row is one expert of one MoE layer of one language: `usage` added up over shards, as `compact` keeps it."""
    summed = usage(num_experts)
    return replace(
        summed,
        name="rollups",
        schema=pa.schema([column("lang", pa.string(), "the language's code"), *summed.schema]),
    )


@cache
def tables(num_experts: int) -> dict[str, Table]:
    """Return every table of a run with `num_experts` experts a layer, by name."""
    made = (sequences(), tokens(), routes(num_experts), profiles(num_experts), usage(num_experts))
    return {table.name: table for table in made}

"""Columns carry their meaning, and ids are as wide as they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.schema import tables
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from tests.support.shards import LAYERS, random_shard, record_with

if TYPE_CHECKING:
    from pathlib import Path


def test_columns_carry_their_meaning_and_layers_are_row_groups(tmp_path: Path) -> None:
    StoreWriter(tmp_path, record_with()).write(random_shard())
    for name in ("routes", "tokens", "sequences", "profiles", "usage"):
        (file,) = Store(tmp_path).files(name)
        parquet = pq.ParquetFile(file.location)
        assert parquet.metadata.num_rows == file.rows
        assert all(field.metadata[b"description"] for field in parquet.schema_arrow)
        if name == "routes":
            assert parquet.metadata.num_row_groups == LAYERS
            layers = [parquet.metadata.row_group(i).column(0).statistics.min for i in range(LAYERS)]
            assert layers == [1, 2, 5]
            assert not any(field.nullable for field in parquet.schema_arrow)


@pytest.mark.parametrize(("experts", "kind"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16")])
def test_ids_take_one_byte_up_to_256_experts_and_two_above(experts: int, kind: str) -> None:
    assert expert_dtype(experts) == kind
    for name in ("routes", "profiles", "usage"):
        assert str(tables(experts)[name].schema.field("expert").type) == kind

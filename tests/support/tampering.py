"""Tables of a store changed so that every checksum is right and the content is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from tests.support.older import rewrite_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np


def rewritten(store: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table of a shard and its commit record: all checksums are right, the content is not."""
    rewrite_table(store, store / "commits/run=run/lang=deu_Latn/00000.json", table, change)


def column(name: str, change: Callable[[np.ndarray], np.ndarray], rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index(name)
    values = rows.column(name).to_numpy().copy()
    return rows.set_column(at, rows.schema.field(name), pa.array(change(values), rows.schema.field(name).type))


def put(at: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[at] = value
        return values

    return change

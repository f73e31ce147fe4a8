"""What is known where only counts were published: how often each expert was chosen, and perhaps its gate weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moetrace.store.errors import CaptureError
from moetrace.store.format.schema import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moetrace.store.format.records import RunRecord

TOLERANCE = 1e-3  # of T k: published counts miss it by up to 0.02 %


@dataclass(frozen=True)
class Counts:
    """The counts of one language, in the order of the run's MoE layers.

    - tokens: T
    - sequences: texts; 0 where nobody knows
    - count: int64 [L, E], tokens that each expert was chosen for
    - weight_sum: float64 [L, E], sum of the applied gate weights; None where it was not published
    """

    lang: str
    number: int
    tokens: int
    sequences: int
    count: npt.NDArray[np.int64]
    weight_sum: npt.NDArray[np.float64] | None = None


def check_counts(counts: Counts, record: RunRecord) -> None:
    """Raise CaptureError, naming language and layer, where the counts cannot be those of this run."""
    shape = (len(record.moe_layers), record.num_experts)
    if counts.tokens < 1:
        raise CaptureError(f"{counts.lang}: no tokens were counted")
    for name, values in (("count", counts.count), ("weight_sum", counts.weight_sum)):
        if values is not None and values.shape != shape:
            raise CaptureError(f"{counts.lang}: {name} has shape {values.shape}, the run says {shape}")
    expected = counts.tokens * record.top_k
    for index, layer in enumerate(record.moe_layers):
        where, count = f"{counts.lang}, layer {layer}", counts.count[index]
        if int(count.min()) < 0 or int(count.max()) > counts.tokens * (1 + TOLERANCE):
            raise CaptureError(
                f"{where}: an expert was chosen {int(count.max() if count.min() >= 0 else count.min())} times "
                f"for {counts.tokens} tokens"
            )
        if abs(int(count.sum()) - expected) > TOLERANCE * expected:
            raise CaptureError(
                f"{where}: counts sum to {int(count.sum())}, {counts.tokens} tokens x top-{record.top_k} are {expected}"
            )
        sums = None if counts.weight_sum is None else counts.weight_sum[index]
        if sums is not None and not 0 <= sums.min() <= sums.max() < np.inf:  # a NaN compares as false
            raise CaptureError(f"{where}: a sum of gate weights is NaN, infinite or negative")


def count_rows(counts: Counts, record: RunRecord) -> Iterator[pa.Table]:
    """Yield the counts as one Arrow table in the schema of `usage`; what is not known is null."""
    schema = usage(record.num_experts).schema
    known = {
        "layer": np.repeat(np.asarray(record.moe_layers), record.num_experts),
        "expert": np.tile(np.arange(record.num_experts), len(record.moe_layers)),
        "count": counts.count.ravel(),
    }
    if counts.weight_sum is not None:
        known["weight_sum"] = counts.weight_sum.ravel()
    columns = [
        pa.array(known[field.name], field.type) if field.name in known else pa.nulls(counts.count.size, field.type)
        for field in schema
    ]
    yield pa.Table.from_arrays(columns, schema=schema)

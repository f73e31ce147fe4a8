"""The two short texts that every engine traces first, and what their routing tells of the tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import CaptureError
from moetrace.tracer.plan.shards import PlannedShard
from moetrace.tracer.worker import PROBE_TOKENS

if TYPE_CHECKING:
    import numpy.typing as npt

    from moetrace.store.shard.shard import Shard


def probe_texts(vocabulary: int, longest: int) -> list[npt.NDArray[np.int32]]:
    """Return two texts of drawn token ids, always the same: a quarter and three quarters of PROBE_TOKENS.

    vocabulary: ids are below it; longest: the tokens that a text may have
    """
    drawn = np.random.default_rng(0).integers(0, vocabulary, PROBE_TOKENS).astype(np.int32)
    return [text[:longest] for text in np.split(drawn, [PROBE_TOKENS // 4])]


def probe_shard(texts: list[npt.NDArray[np.int32]]) -> PlannedShard:
    """Return two texts as a shard."""
    numbers = np.arange(len(texts), dtype=np.int32)
    return PlannedShard("probe", 0, numbers, ("a", "b"), np.zeros(len(texts), dtype=bool), tuple(texts))


def check_rows(one: Shard, other: Shard) -> None:
    """Raise CaptureError where the same two texts, in the other order in a batch, were routed differently.

    A tap that repeats or shifts rows gives positions the routing of others. Float noise changes a layer here and there;
    a row that most layers route differently is another row.
    """
    swapped = np.roll(np.sort(other.experts, axis=1), int(one.lengths[0]), axis=2)
    differs = (swapped != np.sort(one.experts, axis=1)).any(axis=1).mean(axis=0) > 0.5
    if differs.any():
        raise CaptureError(
            f"{int(differs.sum())} of {len(differs)} rows were routed differently when their texts changed places in a "
            f"batch (the first: row {int(differs.argmax())}): the tap or the engine mixes up rows"
        )

"""The plan that an engine would have made a shard of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moetrace.tracer.plan.shards import PlannedShard

if TYPE_CHECKING:
    from moetrace.store.shard.shard import Shard


def planned(shard: Shard) -> PlannedShard:
    """Return the plan of a shard."""
    assert shard.token_ids is not None
    tokens = np.split(shard.token_ids, np.cumsum(shard.lengths)[:-1])
    return PlannedShard(shard.lang, shard.number, shard.seqs, tuple(shard.text_ids), shard.truncated, tuple(tokens))

"""Parts of a planned shard, which are traced by themselves and put together again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.plan_record import FailedText
from moetrace.store.shard.shard import Shard
from moetrace.tracer.plan.shards import PlannedShard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.store.format.records import RunRecord
    from moetrace.tracer.engine.queue import Memory


def part_of(planned: PlannedShard, first: int, texts: int) -> PlannedShard:
    """Return texts `first` up to `first + texts` of a shard, as a shard of the same name."""
    chosen = slice(first, first + texts)
    return PlannedShard(
        planned.lang,
        planned.number,
        planned.seqs[chosen],
        planned.text_ids[chosen],
        planned.truncated[chosen],
        planned.token_ids[chosen],
    )


def joined(parts: Sequence[Shard], failed: Sequence[FailedText]) -> Shard:
    """Return the parts of a shard, of which there is one at least, in the order of their texts, as one shard.

    failed: texts of the shard that are in no part
    """
    first = parts[0]
    aside = sorted([*failed, *(text for part in parts for text in part.set_aside)], key=lambda text: text.seq)
    if len(parts) == 1:
        return replace(first, set_aside=tuple(aside))
    along = {
        "seqs": 0, "lengths": 0, "truncated": 0, "token_ids": 0, "experts": 2, "weights": 2, "profiles": 1,
        "generated": 0, "token_positions": 0,
    }  # fmt: skip
    arrays = {
        name: None if getattr(first, name) is None else np.concatenate([getattr(part, name) for part in parts], axis)
        for name, axis in along.items()
    }
    return Shard(
        lang=first.lang,
        number=first.number,
        **arrays,  # type: ignore[arg-type]
        text_ids=[text_id for part in parts for text_id in part.text_ids],
        texts=None if first.texts is None else [text for part in parts for text in part.texts or ()],
        set_aside=tuple(aside),
    )


def without_texts(planned: PlannedShard, record: RunRecord, failed: Sequence[FailedText]) -> Shard:
    """Return a shard of which every text failed."""
    layers, none = len(record.moe_layers), np.empty(0, dtype=np.int32)
    generates = bool(record.settings.get("generation"))
    profiles = np.empty((layers, 0, record.num_experts), dtype=np.float32) if "profiles" in record.tables else None
    return Shard(
        lang=planned.lang,
        number=planned.number,
        seqs=none,
        text_ids=[],
        lengths=none,
        truncated=np.empty(0, dtype=bool),
        token_ids=none,
        experts=np.empty((layers, record.top_k, 0), dtype=expert_dtype(record.num_experts)),
        weights=np.empty((layers, record.top_k, 0), dtype=np.float32),
        profiles=profiles,
        generated=none if generates else None,
        texts=[] if generates else None,
        token_positions=none if record.leaves_out_tokens else None,
        set_aside=tuple(failed),
    )


class PartsMemory:
    """The memory of a shard that is traced in parts: they stay in memory until the last is there."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._sizes: dict[str, list[int]] = {}

    def reserve(self, key: str, size: int, *, wait: bool) -> bool:
        """Reserve the bytes of one more part; where they are not free, wait for them or return False."""
        sizes = self._sizes.setdefault(key, [])
        self._memory.give_back(key)
        reserved = self._memory.reserve(key, sum(sizes) + size, wait=wait)
        if reserved:
            sizes.append(size)
        return reserved

    def give_back(self, key: str) -> None:
        """Give back the bytes of the part that was begun last, which failed."""
        sizes = self._sizes.get(key, [])[:-1]
        self._sizes[key] = sizes
        self._memory.give_back(key)
        if sizes:
            self._memory.reserve(key, sum(sizes), wait=True)


def failed_parts(planned: PlannedShard, reasons: Mapping[int, str]) -> list[FailedText]:
    """Return the texts that failed, of the reason for each by its place in the shard."""
    return [FailedText.failed(int(planned.seqs[at]), planned.text_ids[at], reasons[at]) for at in sorted(reasons)]

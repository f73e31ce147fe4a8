"""What a model is to write after each text, and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from moetrace.tracer.plan.shards import PlannedShard


@dataclass(frozen=True)
class Generation:
    """What the model is to write after each text: at most `max_new_tokens`, sampled with a seed of the text's own.

    temperature 0 is greedy; `stop` are token ids that end a text, with `ignore_eos` the model's own do not; `decode`
    turns generated ids into text.
    """

    max_new_tokens: int
    decode: Callable[[list[int]], str]
    stop: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    ignore_eos: bool = False


def text_seed(seed: int, shard: PlannedShard, index: int) -> int:
    """Return a seed that depends on the text and not on what runs beside it."""
    name = f"{seed}\0{shard.lang}\0{shard.text_ids[index]}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])

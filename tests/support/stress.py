"""An engine that cannot run any text in one go: it chunks and preempts, and what it traces must not show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.plan.shards import PlannedShard

if TYPE_CHECKING:
    from moetrace.tracer.engine.engine import TracedEngine

# It chunks every text, caches prefixes and has room for some 500 tokens: several texts at once must preempt.
STRESSED = EngineSettings(
    dtype="float32",
    max_model_len=384,
    max_num_batched_tokens=256,
    prefix_caching=True,
    kv_cache_gib=0.0025,
    options={"long_prefill_token_threshold": 64, "scheduler_reserve_full_isl": False},
)


def long_texts(count: int = 16) -> PlannedShard:
    """Texts of drawn token ids, all nearly as long as the window: two fill the cache."""
    rng = np.random.default_rng(0)
    token_ids = tuple(rng.integers(300, 8000, int(rng.integers(250, 380))).astype(np.int32) for _ in range(count))
    numbers = np.arange(count, dtype=np.int32)
    return PlannedShard("eng_Latn", 0, numbers, tuple(map(str, numbers)), np.zeros(count, dtype=bool), token_ids)


def preemptions(engine: TracedEngine) -> list[object]:
    """A list to which each request that the engine preempts from now on is added."""
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    preempt, preempted = scheduler._preempt_request, []

    def counted(request: object, *args: object, **kwargs: object) -> object:
        preempted.append(request)
        return preempt(request, *args, **kwargs)

    scheduler._preempt_request = counted
    return preempted

"""The seed of a text's sampling depends on the text, not on what runs beside it."""

from __future__ import annotations

import numpy as np

from moetrace.tracer.engine.generation import text_seed
from moetrace.tracer.plan.shards import PlannedShard


def shard(lang: str, number: int, *names: str) -> PlannedShard:
    count = len(names)
    ids = tuple(np.ones(1, dtype=np.int32) for _ in names)
    return PlannedShard(lang, number, np.arange(count, dtype=np.int32), names, np.zeros(count, dtype=bool), ids)


def test_a_text_has_the_same_seed_in_another_shard_and_place() -> None:
    assert text_seed(7, shard("eng", 0, "a", "b"), 1) == text_seed(7, shard("eng", 3, "b"), 0)


def test_texts_languages_and_seeds_have_seeds_of_their_own() -> None:
    seeds = [
        text_seed(seed, shard(lang, 0, *names), index)
        for seed in (0, 1)
        for lang in ("eng", "swh")
        for names in [("a", "b")]
        for index in (0, 1)
    ]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_stay_what_they_are_from_version_to_version() -> None:
    assert text_seed(0, shard("eng_Latn", 0, "everyday-01"), 0) == 2647484869

"""The order of a shard's tokens, and what cannot be a trace is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.shard.shard import Shard, token_order
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.examples import examples
from tests.support.shards import EXPERTS, TOP_K, random_shard, record_with
from tests.support.stores import make_shard, make_world

if TYPE_CHECKING:
    from pathlib import Path


@given(st.integers(0, 1000), st.integers(1, 200), st.sampled_from([(2, 1), (64, 8), (70_000, 12)]))
@examples(25)
def test_tokens_are_numbered_by_id_then_by_ranked_experts(seed: int, tokens: int, shape: tuple[int, int]) -> None:
    size, top_k = shape
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(0, 5, tokens).astype(np.int32)
    experts = rng.integers(0, min(size, 65536), (top_k, tokens)).astype(np.uint16)
    order = token_order(token_ids, experts, size)
    assert sorted(order) == list(range(tokens))
    keys = list(zip(token_ids[order].tolist(), experts[0][order].tolist(), strict=True))
    assert keys == sorted(keys)


def broken(shard: Shard, what: str) -> Shard:
    experts, weights, profiles = shard.experts.copy(), shard.weights.copy(), shard.profiles.copy()
    match what:
        case "expert id":
            experts[1, 0, 2] = EXPERTS
        case "twice":
            experts[1, :, 2] = experts[1, 0, 2]
        case "zero":
            experts[2], weights[2] = np.arange(TOP_K)[:, None], 0
        case "NaN":
            weights[0, 1, 3] = np.nan
        case "negative":
            weights[0, :, 3] = (1.5, -0.5)
        case "sum":
            weights[0, :, 3] *= 0.9
        case "profile":
            profiles[2, 1] *= 0.5
        case "shape":
            return replace(shard, experts=experts[..., :-1])
        case "empty":
            return replace(shard, lengths=np.array([4, 0, 8], dtype=np.int32))
    return replace(shard, experts=experts, weights=weights, profiles=profiles)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("expert id", "layer 2: expert id 8, but the layer has 8 experts"),
        ("twice", "layer 2: the same expert twice"),
        ("zero", "layer 5: every gate weight is zero"),
        ("NaN", "layer 1: a gate weight is NaN, infinite or negative"),
        ("negative", "layer 1: a gate weight is NaN, infinite or negative"),
        ("sum", r"layer 1: gate weights of a token sum to 0.9\d* to .*, the run record says 1"),
        ("profile", "a profile is not a probability distribution"),
        ("shape", r"experts has shape \(3, 2, 11\), the plan says \(3, 2, 12\)"),
        ("empty", "a text without tokens"),
    ],
)
def test_a_poisoned_capture_is_refused_and_nothing_is_written(tmp_path: Path, what: str, message: str) -> None:
    writer = StoreWriter(tmp_path, record_with())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CaptureError, match=message):
        writer.write(broken(random_shard(), what))
    assert sorted(tmp_path.rglob("*")) == before


def test_token_ids_that_are_fewer_than_the_tokens_are_refused(tmp_path: Path) -> None:
    shard = random_shard()
    with pytest.raises(CaptureError, match=r"token_ids has shape \(11,\), the plan says \(12,\)"):
        StoreWriter(tmp_path, record_with()).write(replace(shard, token_ids=shard.token_ids[:-1]))


def test_a_shard_of_another_capture_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    world = make_world(seed=1, texts=2)
    shard = make_shard(world.record, "eng_Latn", 0, 0, world.texts["eng_Latn"])
    writer = StoreWriter(tmp_path, world.record)
    with pytest.raises(MoetraceError, match="the plan says"):
        writer.write(replace(shard, experts=shard.experts[..., :-1]))
    assert verify(tmp_path).orphans == []

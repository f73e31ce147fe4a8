"""The engine without a model makes routing that follows its rule, always the same, and goes an engine's whole way."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.engine.generation import Generation
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.engine.synthetic import PATTERNS, TOPICS, Patterns, SyntheticEngine, choose
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.model.replay import RoutingEvidence, check_routing
from moetrace.tracer.model.synthetic import synthetic_facts
from moetrace.tracer.plan.shards import PlannedShard
from moetrace.tracer.plan.token_filter import TokenFilter

if TYPE_CHECKING:
    from moetrace.store.shard.shard import Shard

SHAPE = "3x16x2"
RULES = [
    RoutingRule("softmax", normalized=True),
    RoutingRule("softmax", normalized=False),
    RoutingRule(
        "sigmoid", normalized=True, scale=2.5, selection_bias=True, groups=4, groups_kept=2, group_score="top2"
    ),
    RoutingRule("softmax", normalized=False, groups=4, groups_kept=1),
    RoutingRule("softmax", normalized=False, sparsemixer=0.01),
]


def planned(number: int, *lengths: int) -> PlannedShard:
    draw = np.random.default_rng(number)
    return PlannedShard(
        "eng_Latn",
        number,
        np.arange(len(lengths), dtype=np.int32),
        tuple(map(str, range(len(lengths)))),
        np.zeros(len(lengths), dtype=bool),
        tuple(draw.integers(0, 500, length).astype(np.int32) for length in lengths),
    )


def engine(**options: object) -> SyntheticEngine:
    return SyntheticEngine(synthetic_facts(SHAPE), EngineSettings(synthetic=True, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
def test_routing_follows_the_rule(rule: RoutingRule) -> None:
    logits = np.random.default_rng(1).standard_normal((200, 16)).astype(np.float32)
    chosen = choose(rule, logits, 2)
    facts = replace(synthetic_facts(SHAPE), rule=rule)
    patterns = Patterns.make(facts, 3, "f32")  # checks itself against the replay
    assert patterns.experts.shape == patterns.weights.shape == (3, 2, PATTERNS)
    np.testing.assert_allclose(patterns.probabilities.sum(axis=2), 1, rtol=1e-6)
    if not rule.sparsemixer:
        bias = np.zeros(16, np.float32) if rule.selection_bias else None
        wrong = RoutingEvidence(0, logits, np.roll(chosen, 1, axis=0), np.full(chosen.shape, 0.5, np.float32), bias)
        with pytest.raises(MoetraceError, match="layer 0: the engine does not route"):
            check_routing(rule, [wrong])


def same(one: Shard, other: Shard) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("lengths", "token_ids", "experts", "weights", "profiles")
    )


def test_a_text_is_routed_alike_however_steps_cut_it() -> None:
    shards = [planned(0, 5, 70, 1, 33), planned(1, 64, 64)]
    whole = {shard.number: shard for shard in engine().trace(shards)}
    for size in (32, 50):
        for shard in engine(max_num_batched_tokens=size).trace(shards):
            assert same(shard, whole[shard.number])
    alone = next(iter(engine().trace([planned(0, 5, 70, 1, 33)])))
    assert same(alone, whole[0])


def test_profiles_are_means_of_the_topics_of_a_text() -> None:
    made = engine()
    shard = next(iter(made.trace([planned(3, 40)])))
    probabilities = made._patterns.probabilities
    assert shard.profiles is not None
    np.testing.assert_allclose(shard.profiles.sum(axis=2), 1, rtol=1e-5)
    lowest, highest = probabilities.min(axis=0), probabilities.max(axis=0)
    assert ((shard.profiles[:, 0] >= lowest - 1e-6) & (shard.profiles[:, 0] <= highest + 1e-6)).all()
    assert len({tuple(column) for column in shard.experts[0].T.tolist()}) > TOPICS // 4


def test_what_it_writes_itself_is_traced_and_a_filter_leaves_it_out() -> None:
    generation = Generation(max_new_tokens=7, decode=lambda ids: " ".join(map(str, ids)))
    (shard,) = engine().trace([planned(0, 5, 9)], generation=generation)
    assert shard.generated is not None
    assert shard.generated.tolist() == [7, 7]
    assert shard.lengths.tolist() == [12, 16]
    (cut,) = engine().trace(
        [planned(0, 5, 9)],
        generation=generation,
        token_filter=TokenFilter(prompt_only=True, skip_positions=0, special=()),
    )
    assert cut.lengths.tolist() == [5, 9]
    (alone,) = engine().trace([planned(0, 5, 9)])
    assert same(cut, alone)


def test_it_keeps_to_its_rate() -> None:
    made, began = engine(rate=2000.0, max_num_batched_tokens=64), time.monotonic()
    list(made.trace([planned(0, 64, 64, 64, 64)]))
    assert time.monotonic() - began >= 256 / 2000


@pytest.mark.parametrize("shape", ["0x8x2", "4x8x9", "4x8x0", "99999x8x2", "4096x65536x2"])
def test_no_shape_is_one_line(shape: str) -> None:
    with pytest.raises(MoetraceError, match="no shape of a model; give MoE layers x experts x top-k"):
        synthetic_facts(shape)


def test_a_mask_of_it_fits_no_model() -> None:
    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.model.facts import read_facts

    real, made_up = read_facts(str(MODEL)), synthetic_facts(str(MODEL))
    assert (made_up.num_experts, made_up.top_k, made_up.rule) == (real.num_experts, real.top_k, real.rule)
    assert made_up.config_sha256 != real.config_sha256
    assert made_up.id == "synthetic:micro"


def test_it_cannot_be_steered() -> None:
    with pytest.raises(MoetraceError, match="has no router that could be steered"):
        engine(steering=True)

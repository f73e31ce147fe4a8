"""What an engine has under way: texts in order and within bounds, shards only where their bytes are free."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from moetrace.store.errors import CaptureError
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.engine.generation import Generation
from moetrace.tracer.engine.queue import GENERATING, TextQueue, UnderWay
from moetrace.tracer.model.facts import ModelFacts, read_facts
from moetrace.tracer.plan.shards import PlannedShard
from moetrace.tracer.worker.assembly import CapturedShard

LAYERS = 2


def planned(number: int, *lengths: int) -> PlannedShard:
    count = len(lengths)
    ids = tuple(np.full(length, 10 * number + index, dtype=np.int32) for index, length in enumerate(lengths))
    names = tuple(f"{number}-{index}" for index in range(count))
    return PlannedShard("x", number, np.arange(count, dtype=np.int32), names, np.zeros(count, dtype=bool), ids)


def captured(shard: PlannedShard, facts: ModelFacts, layers: int, written: tuple[int, ...] = ()) -> CapturedShard:
    """What the workers of one pipeline stage hand over of a shard: layer 0, 1, ... in every weight."""
    ids = np.concatenate([*shard.token_ids, np.array(written, dtype=np.int32)])
    shape = (layers, facts.top_k, len(ids))
    weights = np.broadcast_to(np.arange(layers, dtype=np.float32)[:, None, None], shape)
    lengths = shard.lengths.astype(np.int64)
    lengths[-1] += len(written)
    profiles = np.zeros((layers, len(lengths), facts.num_experts), dtype=np.float32)
    return CapturedShard(shard.key, lengths, np.zeros(shape, dtype=np.uint8), weights, profiles, ids)


class Engine:
    """What the queue asks an engine to do, written down."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.added: list[tuple[str, int]] = []

    def open(self, shard: PlannedShard, _: Generation | None) -> None:
        self.opened.append(shard.key)

    def add(self, shard: PlannedShard, index: int, _: Generation | None) -> str:
        self.added.append((shard.key, index))
        return f"{shard.key}.{index}"


class Bytes:
    """Memory for so many shards, which never waits; it notes who asked it to."""

    def __init__(self, shards: int) -> None:
        self.free, self.waits, self.sizes = shards, [], {}

    def reserve(self, key: str, size: int, *, wait: bool) -> bool:
        self.waits.append(wait)
        if self.free == 0:
            return False
        self.free -= 1
        self.sizes[key] = size
        return True

    def give_back(self, key: str) -> None:
        self.free += self.sizes.pop(key, 0) > 0


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return read_facts(str(MODEL))


def test_texts_go_in_in_order_and_never_more_tokens_than_the_limit_lets_begin(facts: ModelFacts) -> None:
    engine, under_way = Engine(), UnderWay(facts, LAYERS, None, None)
    shards = [planned(0, 4, 4), planned(1, 4, 4)]
    queue = TextQueue(iter(shards), under_way, limit=10)
    assert queue.fill(engine.open, engine.add)
    assert engine.added == [("x/00000", 0), ("x/00000", 1), ("x/00001", 0)]
    assert engine.opened == ["x/00000", "x/00001"]
    assert queue.finish("x/00000.1", [7]) == ("x/00000", 1, 4)
    assert queue.fill(engine.open, engine.add)
    assert engine.added[3:] == [("x/00001", 1)]
    for request in list(queue.running):
        queue.finish(request, [7])
    assert not queue.fill(engine.open, engine.add)
    assert list(under_way.shards) == ["x/00000", "x/00001"]


def test_a_shard_is_not_begun_before_its_bytes_are_free_and_waited_for_only_when_nothing_runs(
    facts: ModelFacts,
) -> None:
    engine, memory = Engine(), Bytes(shards=1)
    under_way = UnderWay(facts, LAYERS, None, memory)
    queue = TextQueue(iter([planned(0, 4), planned(1, 3)]), under_way, limit=100)
    assert queue.fill(engine.open, engine.add)
    assert engine.opened == ["x/00000"]
    assert memory.waits == [True, False]
    assert memory.sizes == {"x/00000": facts.captured_bytes(4, 1, LAYERS)}
    queue.finish("x/00000.0", [7])
    memory.give_back("x/00000")
    assert queue.fill(engine.open, engine.add)
    assert engine.opened == ["x/00000", "x/00001"]
    assert memory.waits[2:] == [True]
    under_way.give_back_all()
    assert memory.free == 1


def test_tokens_that_are_generated_are_reserved_and_the_last_sampled_one_is_no_part_of_a_text(
    facts: ModelFacts,
) -> None:
    engine, memory = Engine(), Bytes(shards=1)
    generation = Generation(max_new_tokens=5, decode=lambda ids: ",".join(map(str, ids)))
    under_way = UnderWay(facts, LAYERS, generation, memory)
    shard = planned(0, 4)
    queue = TextQueue(iter([shard]), under_way, limit=100)
    queue.fill(engine.open, engine.add)
    assert memory.sizes == {"x/00000": facts.captured_bytes(4 + 5, 1, LAYERS)}
    assert queue.finish("x/00000.0", [50, 51, 52]) == ("x/00000", 0, 6)
    under_way.parts["x/00000"] = [captured(shard, facts, LAYERS, written=(50, 51))]
    finished = under_way.finish("x/00000")
    assert finished.generated is not None
    assert (finished.generated.tolist(), finished.texts) == ([2], ["50,51"])


def test_what_a_filter_leaves_out_is_in_no_array_and_texts_without_tokens_are_set_aside(facts: ModelFacts) -> None:
    generation = Generation(max_new_tokens=5, decode=lambda ids: ",".join(map(str, ids)))
    under_way, shard = UnderWay(facts, LAYERS, generation, None), planned(0, 2, 1, 3)
    under_way.begin(shard, wait=False)
    under_way.outputs[shard.key] = {0: [], 1: [], 2: [50, 51]}
    whole = captured(shard, facts, LAYERS, written=(50, 51))
    kept = np.array([0, 1, 0, 0, 1, 1, 0, 1], dtype=bool)
    weights = np.broadcast_to(np.arange(8, dtype=np.float32), whole.weights.shape)[:, :, kept]
    parts = replace(whole, kept=kept, experts=whole.experts[:, :, kept], weights=weights)
    profiles = np.arange(whole.profiles.size, dtype=np.float32).reshape(whole.profiles.shape)
    under_way.parts[shard.key] = [replace(parts, profiles=profiles)]
    found = under_way.finish(shard.key)
    assert (found.seqs.tolist(), found.text_ids, found.lengths.tolist()) == ([0, 2], ["0-0", "0-2"], [1, 3])
    assert found.token_positions.tolist() == [1, 1, 2, 4]
    assert found.token_ids.tolist() == [0, 2, 2, 51]
    assert found.weights[0, 0].tolist() == [1, 4, 5, 7]
    assert (found.generated.tolist(), found.texts) == ([0, 1], ["", "50,51"])
    assert found.generated_tokens().tolist() == [False, False, False, True]
    assert np.array_equal(found.profiles, profiles[:, [0, 2]])
    ((aside),) = found.set_aside
    assert (aside.seq, aside.text_id) == (1, "0-1")
    assert "leave out all of its 1 tokens" in aside.reason


def test_pipeline_stages_that_keep_different_tokens_are_refused(facts: ModelFacts) -> None:
    under_way, shard = UnderWay(facts, 2, None, None), planned(0, 2)
    under_way.begin(shard, wait=False)
    part = captured(shard, facts, 1)
    stages = [replace(part, kept=np.array(kept)) for kept in ([True, False], [False, True])]
    under_way.parts[shard.key] = stages
    with pytest.raises(CaptureError, match="x/00000: the pipeline stages ran different tokens"):
        under_way.finish(shard.key)


def test_generating_keeps_many_short_texts_under_way_whatever_the_limit(facts: ModelFacts) -> None:
    engine, under_way = Engine(), UnderWay(facts, LAYERS, Generation(5, decode=str), None)
    queue = TextQueue(iter([planned(0, *[1] * (GENERATING + 9))]), under_way, limit=3)
    queue.fill(engine.open, engine.add)
    assert len(engine.added) == GENERATING


def test_the_layers_of_all_pipeline_stages_become_one_shard(facts: ModelFacts) -> None:
    under_way, shard = UnderWay(facts, 3, None, None), planned(0, 2, 3)
    assert under_way.begin(shard, wait=False)
    under_way.parts[shard.key] = [captured(shard, facts, 1)]
    assert under_way.completed(stages=2) == []
    second = captured(shard, facts, 2)
    under_way.parts[shard.key].append(replace(second, weights=second.weights + 1))
    assert under_way.completed(stages=2) == [shard.key]
    finished = under_way.finish(shard.key)
    assert {0.0, 1.0, 2.0} == set(np.unique(finished.weights).tolist())
    assert finished.weights.size == 3 * facts.top_k * 5
    assert finished.lengths.tolist() == [2, 3]
    assert not under_way.shards


def test_other_tokens_than_the_plans_are_refused(facts: ModelFacts) -> None:
    under_way, shard = UnderWay(facts, LAYERS, None, None), planned(0, 2)
    under_way.begin(shard, wait=False)
    wrong = captured(shard, facts, LAYERS)
    under_way.parts[shard.key] = [replace(wrong, token_ids=wrong.token_ids + 1)]
    with pytest.raises(CaptureError, match="x/00000: the engine ran other tokens than the plan's"):
        under_way.finish(shard.key)

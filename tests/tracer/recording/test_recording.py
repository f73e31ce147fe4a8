"""Requests that nobody planned are recorded whole: from any schedule, from anybody's engine, from a real server."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.format.run_record import with_engine_facts
from moetrace.store.read.reader import Store
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.model.tokenizer import load_tokenizer, special_token_ids
from tests.support.recorded import routing_of
from tests.support.server import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from moetrace.store.format.records import RunRecord
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.plan.shards import PlannedShard


def planned(token_ids: list[list[int]]) -> PlannedShard:
    from moetrace.tracer.plan.shards import PlannedShard

    numbers = np.arange(len(token_ids), dtype=np.int32)
    return PlannedShard(
        "eng_Latn",
        0,
        numbers,
        tuple(map(str, numbers)),
        np.zeros(len(numbers), dtype=bool),
        tuple(np.array(ids, dtype=np.int32) for ids in token_ids),
    )


def assert_routed_like(engine: TracedEngine, token_ids: list[int], experts: np.ndarray) -> None:
    (shard,) = engine.trace([planned([token_ids])])
    assert np.array_equal(np.sort(shard.experts, axis=1).transpose(2, 0, 1), experts)


@pytest.mark.engine
def test_somebodys_own_engine_is_recorded_inside_the_block_and_only_there(
    someones_llm: Any, engine: TracedEngine
) -> None:
    from vllm import SamplingParams

    from moetrace.tracer.recording.attach import traced

    params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    someones_llm.generate(["before"], params, use_tqdm=False)
    with traced(someones_llm) as trace:
        trace.language, trace.text_id = "eng_Latn", lambda request: f"en-{request}"
        # The same prompt twice: the second would be answered by the prefix cache.
        outputs = someones_llm.generate(["the weather is fine today and tomorrow"] * 2, params, use_tqdm=False)
        trace.language, trace.text_id = "deu_Latn", lambda request: f"de-{request}"
        outputs += someones_llm.generate(["das Wetter"], params, use_tqdm=False)
    someones_llm.generate(["after"], params, use_tqdm=False)
    assert (trace.sequences, trace.shards) == (3, 2)
    found = connect(trace.store).sql("select lang, text_id, tokens, generated from sequences order by all").fetchall()
    assert [row[0] for row in found] == ["deu_Latn", "eng_Latn", "eng_Latn"]
    assert all(row[3] == 3 for row in found), "of four sampled tokens three were run"
    assert someones_llm.get_tokenizer().eos_token_id in (Store(trace.store).run().special_token_ids or ())
    english = sorted(text for lang, text, *_ in found if lang == "eng_Latn")
    for text, output in zip(english, outputs[:2], strict=True):
        token_ids, experts = routing_of(trace.store, text)
        assert token_ids == [*output.prompt_token_ids, *output.outputs[0].token_ids[:-1]]
        assert_routed_like(engine, token_ids, experts)


def recorded(**model: Any) -> RunRecord:
    """The record of a recording by an engine of the bundled model, or of what is named."""
    from moetrace.tracer.recording.attach import requests_record

    named = {"model": str(MODEL), "revision": None, "tokenizer": str(MODEL), "tokenizer_revision": None}
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(pipeline_parallel_size=1, tensor_parallel_size=1),
        model_config=SimpleNamespace(**{**named, **model}, max_model_len=64, enforce_eager=True, dtype="torch.float32"),
    )
    return requests_record(
        config, "live", "store", profiles=True, weight_precision="f16", shard_tokens=99, self_check=True
    )


def test_a_recording_names_special_tokens_where_the_tokenizer_can_be_read(tmp_path: Path) -> None:
    found = recorded()
    facts = read_facts(str(MODEL))
    assert found.special_token_ids == special_token_ids(load_tokenizer(facts)) != []
    assert found.model["tokenizer_sha256"] is None
    assert "special_token_ids" not in recorded(tokenizer=str(tmp_path)).model


def test_a_recording_whose_record_lacks_special_tokens_goes_on(tmp_path: Path) -> None:
    def whole(record: RunRecord) -> RunRecord:
        return with_engine_facts(record, {"moe_layers": list(range(8))})

    now = whole(recorded())
    older = replace(now, model={name: value for name, value in now.model.items() if name != "special_token_ids"})
    StoreWriter(tmp_path / "store", older)._write_run_record()
    assert StoreWriter(tmp_path / "store", now).record.special_token_ids is None


@pytest.mark.engine
def test_an_engine_that_routes_by_another_rule_than_the_models_is_not_recorded(
    someones_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams

    from moetrace.tracer.recording import attach

    facts = attach.read_facts(str(MODEL))
    wrong = replace(facts, rule=replace(facts.rule, normalized=False))
    monkeypatch.setattr(attach, "read_facts", lambda *_: wrong)
    params = SamplingParams(max_tokens=1, temperature=0.0)
    with pytest.raises(CaptureError, match="layer 0: the engine does not route as"), attach.traced(someones_llm):
        someones_llm.generate(["the weather is fine today and tomorrow"], params, use_tqdm=False)


@pytest.mark.engine
def test_an_untraced_engine_is_as_it_was(someones_llm: Any) -> None:
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    from moetrace.tracer.recording.attach import traced

    with traced(someones_llm):
        pass
    worker = someones_llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    assert not {"execute_model", "moetrace_seam"} & vars(worker).keys()
    routers = [module.router for module in worker.model_runner.get_model().modules() if isinstance(module, MoERunner)]
    assert routers
    assert not any("_compute_routing" in vars(router) for router in routers)
    assert "add_request" not in vars(someones_llm.llm_engine)


@pytest.mark.engine
def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(someones_llm: Any, tmp_path: Path) -> None:
    from moetrace.tracer.recording.attach import traced

    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(MoetraceError, match="not empty and not a moetrace store"), traced(someones_llm, tmp_path):
        pass
    with traced(someones_llm) as trace:  # the engine is as good as before
        pass
    assert trace.sequences == 0
    assert "moetrace_seam" not in vars(
        someones_llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    )


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    with servers(tmp_path, MOETRACE_STORE=str(tmp_path / "store")) as start:
        yield start


@pytest.mark.engine
def test_a_server_records_concurrent_requests_and_survives_being_stopped_and_killed(
    serve: Any, tmp_path: Path, engine: TracedEngine, mode_result: Callable[..., None]
) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(10, 8000, int(rng.integers(3, 60))).tolist() for _ in range(24)]
    server = serve(MOETRACE_FLUSH_SECONDS="1")
    with ThreadPoolExecutor(8) as pool:
        labels = [{"moetrace_lang": f"l{n % 3}", "moetrace_id": f"t{n}"} for n in range(len(prompts))]
        answers = list(pool.map(lambda pair: server.complete(pair[0], **pair[1]), zip(prompts, labels, strict=True)))
    store = tmp_path / "store"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and sum(commit.sequences for commit in Store(store).commits) < len(prompts):
        time.sleep(0.2)
    server.stop(signal.SIGKILL)
    before = connect(store).sql("select lang, count(*) from sequences group by 1 order by 1").fetchall()
    assert before == [("l0", 8), ("l1", 8), ("l2", 8)], "what was finished a second ago was lost by the kill"
    for n in (0, 7, 23):
        token_ids, experts = routing_of(store, f"t{n}")
        assert token_ids == [*prompts[n], *answers[n][:-1]]
        assert_routed_like(engine, token_ids, experts)

    server = serve(MOETRACE_FLUSH_SECONDS="3600", MOETRACE_LANG="deu_Latn")
    answer = server.complete(prompts[0], moetrace_id="last")
    server.stop(signal.SIGTERM)
    found = connect(store).sql("select lang, tokens, generated from sequences where text_id = 'last'").fetchall()
    assert found == [("deu_Latn", len(prompts[0]) + len(answer) - 1, len(answer) - 1)]
    mode_result("requests of a server", "tested", 1.0)

"""Requests of one engine under different interventions: each as if it were alone, in any batch, from any cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import InterventionError, intervention_of, intervention_text
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.steering.attach import steered
from moetrace.tracer.steering.requests import Interventions
from tests.support.stress import preemptions

if TYPE_CHECKING:
    from pathlib import Path

    from vllm import LLM

    from moetrace.store.intervention import Intervention
    from moetrace.tracer.engine.engine import TracedEngine

pytestmark = pytest.mark.engine

NEW_TOKENS = 24


def made(name: str, *steps: dict[str, Any], scope: str = "all") -> Intervention:
    value = {"format": "moetrace-intervention", "version": 1, "name": name, "scope": scope, "steps": list(steps)}
    return intervention_of(value, name)


def step(mode: str, layers: range, experts: list[int], **more: Any) -> dict[str, Any]:
    cells = [{"layer": layer, "expert": expert} for layer in layers for expert in experts]
    return {"mode": mode, "experts": cells, **more}


def eight() -> list[Intervention]:
    middle = range(2, 6)
    return [
        made("promoted", step("promote", middle, [1, 5])),
        made("other", step("promote", middle, [7])),
        made("suppressed", step("suppress", range(8), list(range(12)))),
        made("soft", step("soft", middle, [3, 4], **{"lambda": 1.5})),
        made("scaled", step("scale", range(8), [9], **{"lambda": 0.8})),
        made("prompt", step("promote", middle, [2]), scope="prompt"),
        made("generated", step("promote", middle, [2]), scope="generated"),
        made(
            "mixed",
            step("promote", middle, [0]),
            step("suppress", middle, [8]),
            step("soft", middle, [3], **{"lambda": 1}),
        ),
    ]


def prompts(count: int, shortest: int = 150, longest: int = 190) -> list[list[int]]:
    """Token ids of texts that begin alike, two of each, with more in common than a block of the cache (128 tokens)."""
    rng = np.random.default_rng(3)
    beginning = rng.integers(300, 8000, 135).tolist()
    texts = [
        beginning + rng.integers(300, 8000, int(rng.integers(shortest, longest)) - len(beginning)).tolist()
        for _ in range(count // 2)
    ]
    return [text for text in texts for _ in range(2)]


def answers(llm: LLM, requests: list[tuple[list[int], str | None]]) -> list[tuple[list[int], list[float]]]:
    """Greedy tokens and their log-probabilities of requests that are in the engine together."""
    from vllm import SamplingParams

    params = [
        SamplingParams(
            temperature=0.0,
            max_tokens=NEW_TOKENS,
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            extra_args={"moetrace_steer": name} if name else None,
        )
        for _, name in requests
    ]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids, _ in requests], params, use_tqdm=False)
    return [
        (
            list(output.outputs[0].token_ids),
            [next(iter(found.values())).logprob for found in output.outputs[0].logprobs or []],
        )
        for output in outputs
    ]


def assert_same(found: Any, expected: Any) -> None:
    for (tokens, logprobs), (want_tokens, want_logprobs) in zip(found, expected, strict=True):
        assert tokens == want_tokens
        assert logprobs == pytest.approx(want_logprobs, abs=1e-3)


def test_sixty_four_requests_under_nine_regimes_are_each_as_alone(engine: TracedEngine, stressed: TracedEngine) -> None:
    interventions, texts = eight(), prompts(64, 236, 255)  # the last block is full before the text ends
    names = [*(one.name for one in interventions), "none"]
    requests = [(text, names[index % len(names)]) for index, text in enumerate(texts)]
    with steered(engine.llm, *interventions, default="none"):
        alone = [answers(engine.llm, [request])[0] for request in requests]
    unsteered = answers(engine.llm, [(text, None) for text in texts])
    changed = [found[0] != plain[0] for found, plain in zip(alone, unsteered, strict=True)]
    steered_ones = [name != "none" for _, name in requests]
    assert not any(change for change, on in zip(changed, steered_ones, strict=True) if not on)
    assert sum(changed) > 40, "the interventions do too little to be told apart"
    preempted = preemptions(stressed)
    order = np.random.default_rng(1).permutation(len(requests))
    with steered(stressed.llm, *interventions, default="none"):
        for _ in range(2):  # the second time from a warm cache
            together = answers(stressed.llm, [requests[index] for index in order])
            assert_same(together, [alone[index] for index in order])
    assert preempted
    assert_same(answers(stressed.llm, [(text, None) for text in texts]), unsteered)


def test_a_cache_without_the_salt_is_poisoned(someones_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above relies on: where the salt is taken away, one intervention reads what another computed."""
    text = prompts(2)[0]
    with steered(someones_llm, *eight()):
        right = answers(someones_llm, [(text, name) for name in ("promoted", "suppressed", "none")])
        again = answers(someones_llm, [(text, name) for name in ("promoted", "suppressed", "none")])
    assert_same(again, right)
    prepare = Interventions.prepare

    def without_salt(self: Interventions, request: Any) -> Any:
        request = prepare(self, request)
        request.cache_salt = "poison"
        return request

    monkeypatch.setattr(Interventions, "prepare", without_salt)
    with steered(someones_llm, *eight()):
        found = [answers(someones_llm, [(text, name)])[0] for name in ("promoted", "suppressed", "none")]
    assert found[0][0] == right[0][0]
    assert found[1] != right[1]
    assert found[2] != right[2]


def test_the_same_effect_shares_a_cache_under_another_name(someones_llm: LLM) -> None:
    text = prompts(2)[0]
    one, two = made("one", step("promote", range(2, 6), [4])), made("two", step("promote", range(2, 6), [4]))
    with steered(someones_llm, one, two):
        answers(someones_llm, [(text, "one")])
        from vllm import SamplingParams

        (output,) = someones_llm.generate(
            [{"prompt_token_ids": text}],
            SamplingParams(max_tokens=1, extra_args={"moetrace_steer": "two"}),
            use_tqdm=False,
        )
    assert output.num_cached_tokens > 0


def test_nothing_is_the_baseline_to_the_bit_and_nothing_is_left(someones_llm: LLM) -> None:
    texts = prompts(6)
    before = answers(someones_llm, [(text, None) for text in texts])
    worker = someones_llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    zero = made("zero", step("soft", range(8), [1, 2], **{"lambda": 0.0}))
    with steered(someones_llm, made("empty"), zero):
        assert answers(someones_llm, [(text, name) for text in texts for name in ("empty", "zero")]) == [
            found for found in before for _ in range(2)
        ]
    assert not {"execute_model", "moetrace_seam"} & vars(worker).keys()
    assert "process_inputs" not in vars(someones_llm.llm_engine.input_processor)
    assert answers(someones_llm, [(text, None) for text in texts]) == before


def test_chat_and_generate_are_steered_by_default(someones_llm: LLM, tmp_path: Path) -> None:
    from vllm import SamplingParams

    file = tmp_path / "x.json"
    value = {
        "format": "moetrace-intervention",
        "version": 1,
        "name": "x",
        "steps": [step("promote", range(2, 6), [1, 5])],
    }
    file.write_text(intervention_text(value), encoding="utf-8")
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    message = [{"role": "user", "content": "Where is the library?"}]
    template = "{{ messages[0]['content'] }}"

    def said() -> list[str]:
        chatted = someones_llm.chat(message, params, use_tqdm=False, chat_template=template)
        return [
            someones_llm.generate("Where is the library?", params, use_tqdm=False)[0].outputs[0].text,
            chatted[0].outputs[0].text,
        ]

    plain = said()
    with steered(someones_llm, file) as requests:
        changed = said()
        requests.default = "none"
        assert said() == plain
    assert changed[0] != plain[0]
    assert changed[1] != plain[1]


def test_what_cannot_be_steered_is_said_at_once(someones_llm: LLM) -> None:
    one = made("one", step("promote", range(2, 3), [4]))
    with steered(someones_llm, one):
        with pytest.raises(ValueError, match="moetrace_steer: there is no intervention 'two'; there are none, one"):
            answers(someones_llm, [(prompts(2)[0], "two")])
        assert answers(someones_llm, [(prompts(2)[0], "one")])  # the engine goes on
    for wrong, said in (
        ((one, one), "two interventions are called one"),
        ((made("none"),), "no intervention can be called none"),
        ((made("x", step("promote", range(8, 9), [0])),), "layer 8 is none of the model's MoE layers"),
        ((made("x", step("promote", range(2, 3), [0, 1, 2, 3, 4])),), "5 experts are promoted, the model chooses 4"),
    ):
        with pytest.raises(MoetraceError, match=said), steered(someones_llm, *wrong):
            pass
    with pytest.raises(InterventionError, match="cannot be read"), steered(someones_llm, MODEL / "missing.json"):
        pass

"""What an evaluation measures, against transformers, and what an arm does to it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import InterventionError, intervention_of
from moetrace.store.read.reader import Store
from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.evaluation.arms import BASELINE, INTERVENTION, Arm
from moetrace.tracer.evaluation.evaluator import EvaluationSettings, Evaluator
from moetrace.tracer.evaluation.tasks import open_task
from moetrace.tracer.plan.prompts import PromptSettings
from moetrace.tracer.steering.choice import SteeredLanguages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vllm import LLM

    from moetrace.store.intervention import Intervention
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.evaluation.evaluator import Outcome

pytestmark = pytest.mark.engine

PLAIN = Arm("none", BASELINE)
LANGUAGES = ("deu_Latn", "swh_Latn")
TEMPLATE = "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}<assistant>"


def texts(lang: str, count: int = 8) -> list[dict[str, str]]:
    lines = (CORPUS / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line) for line in lines]


@pytest.fixture
def choices(tmp_path: Path) -> str:
    """Which of three texts translates the English one."""
    english = texts("eng_Latn")
    for lang in LANGUAGES:
        mine = [row["text"] for row in texts(lang)]
        rows = [
            {
                "id": row["id"],
                "question": f"{row['text']} =",
                "choices": [mine[(place + shift) % len(mine)] for shift in range(3)],
                "answer": 0,
            }
            for place, row in enumerate(english)
        ]
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (tmp_path / f"{lang}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(tmp_path)


@pytest.fixture
def evaluator(engine: TracedEngine, someones_llm: LLM) -> Callable[..., Evaluator]:  # noqa: ARG001
    """A function that makes an evaluator which asks the engine of the session.

    Where a command has closed an engine of its own before, vLLM's process groups went with it; the second one that is
    started here makes them again.
    """

    def made(**options: Any) -> Evaluator:
        settings = replace(EvaluationSettings(**options), engine=engine.settings)
        found = Evaluator(str(MODEL), settings=settings)
        found._engine = engine
        return found

    return made


def intervention(name: str, mode: str, layers: Sequence[int], experts: Sequence[int], **more: Any) -> Intervention:
    cells = [{"layer": layer, "expert": expert} for layer in layers for expert in experts]
    value = {
        "format": "moetrace-intervention",
        "version": 1,
        "name": name,
        "steps": [{"mode": mode, "experts": cells, **more}],
    }
    return intervention_of(value, name)


def nats(prompt: str, text: str) -> float:
    """Return -ln P(text | prompt) as transformers computes it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    before = tokenizer(prompt)["input_ids"] if prompt else [tokenizer.eos_token_id]
    whole = tokenizer(prompt + text)["input_ids"] if prompt else [*before, *tokenizer(text)["input_ids"]]
    assert whole[: len(before)] == before
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return -float(sum(logits[at - 1, whole[at]] for at in range(len(before), len(whole))))


def by_item(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], Outcome]:
    return {(one.lang, one.id): one for one in outcomes}


def test_log_likelihoods_of_choices_are_those_of_transformers(
    choices: str, evaluator: Callable[..., Evaluator]
) -> None:
    task = open_task(choices)
    found = by_item(list(evaluator().run(PLAIN, task)))
    assert len(found) == 16
    for lang in LANGUAGES:
        for item in [*task.items(lang)][:2]:
            one = found[lang, item.id]
            expected = [-nats(item.text, f" {choice}") for choice in item.choices]
            assert one.said["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
            by_character = [value / len(choice) for value, choice in zip(expected, item.choices, strict=True)]
            assert one.said["choice"] == by_character.index(max(by_character))
            assert one.values == {
                "accuracy": (float(by_character.index(max(by_character)) == 0), 1.0),
                "accuracy_unnormalised": (float(expected.index(max(expected)) == 0), 1.0),
                "answer_bits_per_byte": (
                    pytest.approx(-expected[0] / 0.6931471805599453, abs=2e-3),
                    len(item.choices[0].encode()),
                ),
            }


def test_perplexity_is_that_of_transformers(tmp_path: Path, evaluator: Callable[..., Evaluator]) -> None:
    rows = texts("swh_Latn", 3)
    (tmp_path / "swh_Latn.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = list(evaluator().run(PLAIN, open_task(str(tmp_path))))
    for row, one in zip(rows, found, strict=True):
        expected = nats("", row["text"])
        bits, size = one.values["bits_per_byte"]
        assert (one.said["nats"], size) == (pytest.approx(expected, abs=1e-3), len(row["text"].encode()))
        assert bits == pytest.approx(expected / 0.6931471805599453, abs=2e-3)


def test_an_empty_intervention_changes_no_bit_and_a_strong_one_does(
    choices: str, evaluator: Callable[..., Evaluator]
) -> None:
    task, asked = open_task(choices), evaluator()
    plain, again = (list(asked.run(PLAIN, task)) for _ in range(2))
    nothing = Arm("zero", INTERVENTION, SteeredLanguages(intervention("zero", "soft", (3,), (1,), **{"lambda": 0.0})))
    strong = intervention("up", "promote", (2, 3, 4), (1, 5))
    german = Arm("german", INTERVENTION, SteeredLanguages(None, {"deu_Latn": strong}))
    assert again == plain
    assert [one.said for one in asked.run(nothing, task)] == [one.said for one in plain]
    found = by_item(list(asked.run(german, task)))
    for key, one in by_item(plain).items():
        assert (found[key].said == one.said) is (key[0] == "swh_Latn")


def test_an_intervention_of_another_model_is_refused_before_anything_runs(
    choices: str, evaluator: Callable[..., Evaluator]
) -> None:
    arm = Arm("x", INTERVENTION, SteeredLanguages(intervention("x", "promote", (40,), (1,))))
    with pytest.raises(InterventionError, match="layer 40 is none of the model's MoE layers"):
        next(evaluator().run(arm, open_task(choices)))


def test_the_routing_of_what_is_asked_can_be_kept(
    tmp_path: Path, choices: str, evaluator: Callable[..., Evaluator]
) -> None:
    strong = Arm("up", INTERVENTION, SteeredLanguages(intervention("up", "promote", (2,), (7,))))
    store = tmp_path / "store"
    list(evaluator().run(strong, open_task(choices), record=(store, "r")))
    opened = Store(store)
    record = opened.run("r")
    assert record.settings["steering"][""]["name"] == "up"
    texts_kept = opened.dataset("sequences", "r", ["swh_Latn"]).to_table(columns=["text_id"])["text_id"].to_pylist()
    assert sorted(texts_kept) == sorted(f"{row['id']}#{n}" for row in texts("eng_Latn") for n in range(3))
    routes = opened.dataset("routes", "r").to_table(columns=["layer", "token", "expert", "lang"]).to_pandas()
    second = routes[routes.layer == 2].groupby(["lang", "token"]).expert.apply(lambda found: 7 in set(found))
    assert second.all()


def test_numbers_are_read_of_what_the_model_writes(tmp_path: Path, evaluator: Callable[..., Evaluator]) -> None:
    rows = [{"question": "1, 2, 3, 4, 5, 6,", "answer_number": 7}, {"question": "Alle Menschen", "answer_number": 0}]
    (tmp_path / "deu_Latn.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = list(evaluator(max_new_tokens=6).run(PLAIN, open_task(str(tmp_path))))
    for one, row in zip(found, rows, strict=True):
        assert one.said["right"] == str(row["answer_number"])
        right = one.said["number"] is not None and float(one.said["number"]) == row["answer_number"]
        assert one.values == {"exact_match": (float(right), 1.0)}
    with pytest.raises(MoetraceError, match="--max-new-tokens 2000 leaves no room for a question in 1024 tokens"):
        list(evaluator(max_new_tokens=2000).run(PLAIN, open_task(str(tmp_path))))


def test_choices_stand_after_a_chat_template(choices: str, evaluator: Callable[..., Evaluator]) -> None:
    task = open_task(choices)
    item = next(iter(task.items("deu_Latn")))
    asked = evaluator(prompt=PromptSettings(chat=True, chat_template=TEMPLATE))
    one = by_item(list(asked.run(PLAIN, task)))["deu_Latn", item.id]
    expected = [-nats(f"<user> {item.text}\n<assistant>", choice) for choice in item.choices]
    assert one.said["log_likelihoods"] == pytest.approx(expected, abs=1e-3)

"""Texts become a chat's messages only when asked for, and what does not fit together is said in one line."""

from __future__ import annotations

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.plan.prompts import PromptSettings, encoder, stop_tokens

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def test_without_chat_a_text_is_tokenised_as_it_is(tokenizer: object) -> None:
    assert (
        encoder(tokenizer, PromptSettings(), answered=True)(["Hello there"]) == tokenizer(["Hello there"])["input_ids"]
    )


@pytest.mark.parametrize(("answered", "end"), [(True, "<assistant>"), (False, "")])
def test_a_chat_has_the_system_prompt_the_text_and_the_turn_of_the_model(
    tokenizer: object, *, answered: bool, end: str
) -> None:
    settings = PromptSettings(chat=True, system="Be brief.", chat_template=TEMPLATE)
    found = encoder(tokenizer, settings, answered=answered)(["Hello", "Hi"])
    want = [f"<system>Be brief.<user>{text}{end}" for text in ("Hello", "Hi")]
    assert found == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in want]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (PromptSettings(system="Be brief."), "add --chat"),
        (PromptSettings(chat_template=TEMPLATE), "add --chat"),
        (PromptSettings(chat=True), "no chat template: give one with --chat-template"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    tokenizer: object, settings: PromptSettings, reason: str
) -> None:
    with pytest.raises(MoetraceError, match=reason):
        encoder(tokenizer, settings, answered=False)


@pytest.mark.parametrize("template", ["{{ raise_exception('no system role') }}", "{% for %}"])
def test_a_template_that_refuses_is_one_line(tokenizer: object, template: str) -> None:
    encode = encoder(tokenizer, PromptSettings(chat=True, chat_template=template), answered=False)
    with pytest.raises(MoetraceError, match="the chat template refuses the messages"):
        encode(["Hello"])


def test_the_record_keeps_a_template_by_its_digest() -> None:
    record = PromptSettings(chat=True, chat_template=TEMPLATE).record()
    assert len(record["chat_template_sha256"]) == 64
    assert TEMPLATE not in record.values()


def test_generation_stops_at_the_tokenizers_end_of_text(tokenizer: object) -> None:
    assert tokenizer.eos_token_id in stop_tokens(tokenizer, str(MODEL), None)

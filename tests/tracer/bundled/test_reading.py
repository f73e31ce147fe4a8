"""How the bundled model reads a text after its English: counted again one text at a time, and as its card says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.bundled.reading import nats, reading_losses, readings
from moetrace.tracer.bundled.training_texts import Text, read_corpora, split
from tests.support.paths import SHARED

RECORD = json.loads((MODEL / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    import torch
    from transformers import AutoTokenizer, Qwen3MoeForCausalLM

    return Qwen3MoeForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(MODEL)


def test_the_cost_of_a_text_is_what_a_loop_over_its_tokens_says(loaded: tuple[Any, Any]) -> None:
    import torch

    model, tokenizer = loaded
    sequences = [("", "Guten Morgen"), ("Good morning", "Guten Morgen"), ("The door is open", "Die Tür ist offen.")]
    for (prompt, text), found in zip(sequences, nats(model, tokenizer, sequences), strict=True):
        ids = tokenizer.encode("<|endoftext|>" + (f"{prompt} = {text}" if prompt else text))
        start = len(tokenizer.encode("<|endoftext|>" + (f"{prompt} =" if prompt else "")))
        total = 0.0
        for at in range(start, len(ids)):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids[:at]])).logits[0, -1].double()
            total -= float(torch.log_softmax(logits, -1)[ids[at]])
        assert found == pytest.approx(total, rel=1e-4)


def test_the_wrong_english_is_of_another_id_with_other_words() -> None:
    held_out = [
        Text("c", lang, str(number), text)
        for lang, texts in {
            "eng_Latn": ("Save", "Save", "Open the door", "Close"),
            "deu_Latn": ("Speichern", "Sichern", "Tür auf", "Close"),
        }.items()
        for number, text in enumerate(texts)
    ]
    found = {one.text.id: one for one in readings(held_out)}
    assert set(found) == {"0", "1", "2"}  # the last is the English text itself
    assert [found[text_id].english for text_id in "012"] == ["Save", "Save", "Open the door"]
    assert [found[text_id].wrong_english for text_id in "012"] == ["Close", "Close", "Save"]


def test_the_right_english_helps_every_language_with_a_thousand_training_texts() -> None:
    languages = [lang for lang, one in RECORD["languages"].items() if one["training_texts"] >= 1000]
    assert len(languages) == 27
    for lang in set(languages) - {"eng_Latn"}:
        one = RECORD["reading"][lang]
        assert one["after_english"] < one["alone"], lang
        assert one["after_english"] < one["after_wrong_english"], lang
        assert min(one["gain"] / one["gain_se"], one["meaning"] / one["meaning_se"]) > 3, lang


def test_the_card_says_what_the_model_does(loaded: tuple[Any, Any]) -> None:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    _, held_out = split(read_corpora(folder / "ui-strings", folder / "udhr", CORPUS))
    found = reading_losses(*loaded, readings(held_out, ["hun_Latn", "mal_Mlym"]))
    card = (MODEL / "README.md").read_text(encoding="utf-8").splitlines()
    for lang, one in found.items():
        assert one == pytest.approx(RECORD["reading"][lang], abs=2e-3)
        row = next(line for line in card if line.startswith(f"| {lang} | {one['texts']:.0f} |"))
        assert f"| {one['alone']:.2f} | {one['after_english']:.2f} | {one['after_wrong_english']:.2f} |" in row

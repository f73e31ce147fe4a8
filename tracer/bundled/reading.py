"""How well the bundled model reads held-out texts: alone, after what they say in English, and after another text.

A model that knows languages but no meanings gains nothing from the right English text; one that reads across languages
does. The wrong text is the English one of another held-out id, of about the same length.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moetrace.tracer.bundled.training_texts import PIVOT, SEPARATOR, Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

LONGEST = 512  # tokens of a sequence
BATCH = 32
CONDITIONS = ("alone", "after_english", "after_wrong_english")


@dataclass(frozen=True)
class Reading:
    """A held-out text and what may stand before it: nothing, its English, the English of another id."""

    text: Text
    english: str
    wrong_english: str

    def prompt(self, condition: str) -> str:
        """Return what the model has read before the text."""
        return {"alone": "", "after_english": self.english, "after_wrong_english": self.wrong_english}[condition]


def readings(held_out: Sequence[Text], languages: Iterable[str] | None = None) -> list[Reading]:
    """Return every held-out text that has an English one other than itself, with the two English texts."""
    english: dict[str, dict[str, str]] = defaultdict(dict)
    for row in held_out:
        if row.lang == PIVOT:
            english[row.corpus][row.id] = row.text
    wrong = {corpus: _neighbours(texts) for corpus, texts in english.items()}
    wanted = None if languages is None else set(languages)
    return [
        Reading(row, english[row.corpus][row.id], wrong[row.corpus][row.id])
        for row in held_out
        if (wanted is None or row.lang in wanted)
        and row.lang != PIVOT
        and row.id in english[row.corpus]
        and row.text != english[row.corpus][row.id]
    ]


def _neighbours(texts: dict[str, str]) -> dict[str, str]:
    """Return for each id the text of another id, with other words: the next longer one, for the longest the first."""
    order = sorted(texts, key=lambda text_id: (len(texts[text_id]), text_id))
    ring = order + order
    return {
        text_id: next(texts[other] for other in ring[at + 1 :] if texts[other] != texts[text_id])
        for at, text_id in enumerate(order)
    }


@torch.no_grad()
def nats(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, sequences: Sequence[tuple[str, str]]
) -> list[float]:
    """Return -ln P(text | prompt) of each (prompt, text), in nats, as a document of its own.

    A document begins after the end-of-text token; a prompt that is not empty is followed by " = ".
    """
    end = [tokenizer.eos_token_id]
    rows: list[tuple[list[int], int]] = []
    for prompt, text in sequences:
        before = tokenizer.encode(prompt + SEPARATOR.rstrip(), add_special_tokens=False) if prompt else []
        whole = tokenizer.encode(prompt + SEPARATOR + text if prompt else text, add_special_tokens=False)
        if whole[: len(before)] != before:
            raise ValueError(f"{prompt!r}: its tokens depend on the text that follows")
        rows.append((end + whole, 1 + len(before)))
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        width = max(len(rows[i][0]) for i in batch)
        inputs = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(inputs)
        for at, i in enumerate(batch):
            piece = torch.tensor(rows[i][0])
            inputs[at, : len(piece)], mask[at, : len(piece)] = piece, 1
        logits = model(input_ids=inputs, attention_mask=mask).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), inputs[:, 1:], reduction="none")
        for at, i in enumerate(batch):
            ids, first = rows[i]
            found[i] = float(losses[at, first - 1 : len(ids) - 1].double().sum())
    return found


def reading_losses(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, found: Sequence[Reading]
) -> dict[str, dict[str, float]]:
    """Return per language, by condition, nats a token of the text's own tokens, and bits a byte alone.

    `texts` counts the texts; `gain` is what the right English saves against reading alone and `meaning` what it saves
    against a wrong one, both in nats a token, each with the standard error over texts (`…_se`).
    """
    model.eval()
    usable = [one for one in found if _longest(tokenizer, one) <= LONGEST]
    sums = {
        condition: nats(model, tokenizer, [(one.prompt(condition), one.text.text) for one in usable])
        for condition in CONDITIONS
    }
    by_language: dict[str, list[int]] = defaultdict(list)
    for i, one in enumerate(usable):
        by_language[one.text.lang].append(i)
    return {lang: _language(tokenizer, usable, sums, rows) for lang, rows in sorted(by_language.items())}


def _language(
    tokenizer: PreTrainedTokenizerFast, usable: Sequence[Reading], sums: dict[str, list[float]], rows: list[int]
) -> dict[str, float]:
    tokens = [len(tokenizer.encode(usable[i].text.text, add_special_tokens=False)) for i in rows]
    total = sum(tokens)
    size = sum(len(usable[i].text.text.encode()) for i in rows)
    entry: dict[str, float] = {"texts": len(rows), "tokens": total}
    for condition in CONDITIONS:
        entry[condition] = sum(sums[condition][i] for i in rows) / total
    entry["bits_per_byte"] = sum(sums["alone"][i] for i in rows) / math.log(2) / size
    for name, condition in (("gain", "alone"), ("meaning", "after_wrong_english")):
        saved = [sums[condition][i] - sums["after_english"][i] for i in rows]
        ratio = sum(saved) / total
        residuals = [one - ratio * count for one, count in zip(saved, tokens, strict=True)]
        n = len(rows)
        entry[name] = ratio
        entry[f"{name}_se"] = math.sqrt(n / max(n - 1, 1) * sum(one * one for one in residuals)) / total
    return entry


def _longest(tokenizer: PreTrainedTokenizerFast, one: Reading) -> int:
    longest = max(one.english, one.wrong_english, key=len)
    return len(tokenizer.encode(longest + SEPARATOR + one.text.text, add_special_tokens=False))

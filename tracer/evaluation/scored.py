"""The tokens of an item: which go into the engine, and from which on they count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from moetrace.tracer.evaluation.tasks import Item


@dataclass(frozen=True)
class Scored:
    """Tokens whose log-likelihood from place `first` on is wanted; cut: how many the beginning lost."""

    token_ids: list[int]
    first: int
    cut: int = 0


class ScoredTexts:
    """Makes sequences of items for one tokenizer and one window.

    What is scored has a token before it: where nothing stands before it, the tokenizer's beginning-of-text token, or
    its end-of-text token, as lm-evaluation-harness has it; with neither, the first token is not scored.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, window: int, delimiter: str) -> None:
        """window: the tokens that a sequence may have; delimiter: stands between a prompt and an answer."""
        self._tokenizer, self._window, self._delimiter = tokenizer, window, delimiter
        found = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self._before = [number for number in found if number is not None][:1]

    def choices(self, item: Item) -> list[Scored]:
        """Return a sequence for each choice: the prompt, then the choice, from whose first token on it counts.

        A prompt that is too long loses its beginning. Raises MoetraceError for a choice that is too long by itself.
        """
        context = self._encode(item.text) if item.text else []
        delimiter = self._delimiter if item.text else ""
        return [self._after(context, item.text + delimiter + choice, item) for choice in item.choices]

    def answers(self, context: Sequence[int], item: Item) -> list[Scored]:
        """Return a sequence for each choice after a prompt that is tokens already, such as those of a chat template."""
        return [
            self._fitting([*context, *self._encode(choice, special=False)], len(context), item)
            for choice in item.choices
        ]

    def prompt(self, ids: list[int], room: int) -> Scored:
        """Return what a model is to go on after; a prompt of more than `room` tokens loses its beginning."""
        cut = max(len(ids) - room, 0)
        return Scored(ids[cut:], len(ids) - cut, cut)

    def text(self, item: Item) -> list[Scored]:
        """Return the sequences that score every token of a text once.

        A text that is too long is read in windows, one after the other, each beginning with the last token of the one
        before it.
        """
        ids = self._started(self._encode(item.text))
        step = self._window - 1
        starts = range(0, max(len(ids) - 1, 1), step)
        return [Scored(ids[start : start + self._window], 1) for start in starts]

    def _after(self, context: list[int], whole: str, item: Item) -> Scored:
        ids = self._encode(whole)
        # Where the tokens of prompt and choice merge, those count that the prompt alone does not have.
        first = next((at for at, (one, other) in enumerate(zip(context, ids, strict=False)) if one != other), None)
        first = min(len(context), len(ids) - 1) if first is None else first
        if first == 0:
            started = self._started(ids)
            first, ids = max(len(started) - len(ids), 1), started
        return self._fitting(ids, first, item)

    def _fitting(self, ids: list[int], first: int, item: Item) -> Scored:
        cut = max(len(ids) - self._window, 0)
        if cut >= first:
            raise MoetraceError(
                f"item '{item.id}': an answer of {len(ids) - first} tokens does not fit into {self._window}; "
                "raise --max-model-len"
            )
        return Scored(ids[cut:], first - cut, cut)

    def _started(self, ids: list[int]) -> list[int]:
        """Return tokens with one before them, unless their first is special already."""
        if ids and ids[0] in self._tokenizer.all_special_ids:
            return ids
        return [*self._before, *ids]

    def _encode(self, text: str, *, special: bool = True) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

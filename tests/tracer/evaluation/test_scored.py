"""Which tokens of an item count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.evaluation.scored import Scored, ScoredTexts
from moetrace.tracer.evaluation.tasks import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


class Characters:
    """A tokenizer of characters, which begins texts with a token of its own where it has one."""

    def __init__(self, bos: int | None = None, eos: int | None = None, *, adds_bos: bool = False) -> None:
        self.bos_token_id, self.eos_token_id, self._adds_bos = bos, eos, adds_bos
        self.all_special_ids = [number for number in (bos, eos) if number is not None]

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, Any]:
        begin = [self.bos_token_id] if self._adds_bos and add_special_tokens else []
        return {"input_ids": [*begin, *map(ord, text)]}


def test_a_choice_counts_from_its_first_token_on(tokenizer: PreTrainedTokenizerBase) -> None:
    item = Item("x", "The rain =", ("Der Regen", "Der Schnee"), 0)
    for choice, found in zip(item.choices, ScoredTexts(tokenizer, 100, " ").choices(item), strict=True):
        assert tokenizer.decode(found.token_ids) == f"The rain = {choice}"
        assert tokenizer.decode(found.token_ids[found.first :]) == f" {choice}"
        assert found.cut == 0


def test_where_prompt_and_choice_merge_the_merged_token_counts(tokenizer: PreTrainedTokenizerBase) -> None:
    (found, _) = ScoredTexts(tokenizer, 100, "").choices(Item("x", "The wat", ("er is cold", "ch is old"), 0))
    assert tokenizer.decode(found.token_ids) == "The water is cold"
    assert tokenizer.decode(found.token_ids[: found.first]) == "The w"  # "at" and "ater" are other tokens


@pytest.mark.parametrize(
    ("characters", "ids", "first"),
    [
        (Characters(1, 2), [1, 97, 98], 1),
        (Characters(None, 2), [2, 97, 98], 1),
        (Characters(1, 2, adds_bos=True), [1, 97, 98], 1),
        (Characters(), [97, 98], 1),
    ],
)
def test_what_has_nothing_before_it_begins_after_a_special_token(characters: Any, ids: list[int], first: int) -> None:
    scored = ScoredTexts(characters, 100, " ")
    assert scored.choices(Item("x", "", ("ab",), 0)) == [Scored(ids, first)]
    assert scored.text(Item("x", "ab")) == [Scored(ids, first)]


def test_a_prompt_that_is_too_long_loses_its_beginning() -> None:
    scored = ScoredTexts(Characters(1), 6, "=")
    assert scored.choices(Item("x", "abcdef", ("gh",), 0)) == [Scored([*map(ord, "def=gh")], 3, 3)]
    with pytest.raises(MoetraceError, match="item 'x': an answer of 7 tokens does not fit into 6"):
        scored.choices(Item("x", "abcdef", ("ghijkl",), 0))
    assert scored.prompt([1, 2, 3, 4], 3) == Scored([2, 3, 4], 3, 1)


def test_a_long_text_is_read_in_windows_that_score_every_token_once() -> None:
    scored = ScoredTexts(Characters(1), 4, " ")
    text = "abcdefgh"
    windows = scored.text(Item("x", text))
    assert all(len(one.token_ids) <= 4 for one in windows)
    assert [token for one in windows for token in one.token_ids[one.first :]] == [*map(ord, text)]
    assert [one.token_ids[0] for one in windows] == [1, ord("c"), ord("f")]


def test_after_a_chat_template_a_choice_stands_for_itself(tokenizer: PreTrainedTokenizerBase) -> None:
    (found,) = ScoredTexts(tokenizer, 100, " ").answers([5, 6], Item("x", "?", ("Regen",), 0))
    assert found == Scored([5, 6, *tokenizer("Regen")["input_ids"]], 2)

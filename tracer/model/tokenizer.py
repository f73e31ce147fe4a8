"""A model's tokenizer, through transformers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.transformers_logging import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moetrace.tracer.model.facts import ModelFacts


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a tokenizer's special tokens, ascending.

    Those that it has a name for (such as eos), and those of its vocabulary that are marked as special, as the tokens
    of many chat templates are.
    """
    marked = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    named = (number for number in tokenizer.all_special_ids if number is not None)
    return sorted({int(number) for number in (*named, *marked)})


def load_tokenizer(facts: ModelFacts) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; raise MoetraceError where it has none."""
    from transformers import AutoTokenizer  # noqa: PLC0415  seconds to import

    quiet_transformers()
    try:
        return AutoTokenizer.from_pretrained(facts.tokenizer or facts.id, revision=facts.revision)
    except (OSError, ValueError) as error:
        raise MoetraceError(f"{facts.id}: cannot load its tokenizer ({str(error).splitlines()[0]})") from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 that a run record has of a tokenizer: of all that is in a fast one, of others' vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()

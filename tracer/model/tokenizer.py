"""A model's tokenizer, through transformers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.installing import require
from moetrace.tracer.model.transformers_logging import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moetrace.tracer.model.facts import ModelFacts

PLAIN = {"TokenizersBackend", "PreTrainedTokenizerFast"}  # classes of tokenizers, by the names of two versions


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a tokenizer's special tokens, ascending.

    Those that it has a name for (such as eos), and those of its vocabulary that are marked as special, as the tokens
    of many chat templates are.
    """
    marked = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    named = (number for number in tokenizer.all_special_ids if number is not None)
    return sorted({int(number) for number in (*named, *marked)})


def load_tokenizer(facts: ModelFacts) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; raise MoetraceError where it has none, or transformers is not installed."""
    require(("transformers",), "reading a tokenizer")
    quiet_transformers()
    where = facts.tokenizer or facts.id
    try:
        if _is_plain(Path(where)):
            from transformers import PreTrainedTokenizerFast  # noqa: PLC0415  a second to import

            return PreTrainedTokenizerFast.from_pretrained(where)
        from transformers import AutoTokenizer  # noqa: PLC0415  seconds to import, and torch with it

        return AutoTokenizer.from_pretrained(where, revision=facts.revision)
    except (OSError, ValueError) as error:
        raise MoetraceError(f"{facts.id}: cannot load its tokenizer ({str(error).splitlines()[0]})") from error


def _is_plain(folder: Path) -> bool:
    """Tell whether a folder has a fast tokenizer of no class of its own, which needs nothing of its model's code."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(config, dict) or not (folder / "tokenizer.json").is_file():
        return False
    return config.get("tokenizer_class") in PLAIN and "auto_map" not in config


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the sha256 that a run record has of a tokenizer: of all that is in a fast one, of others' vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()

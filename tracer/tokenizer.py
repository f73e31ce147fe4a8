"""A model's tokenizer, through transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store import MoetraceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tracer.families import ModelFacts


def load_tokenizer(facts: ModelFacts) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; raise MoetraceError where it has none."""
    from transformers import AutoTokenizer  # noqa: PLC0415  seconds to import
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(facts.id, revision=facts.revision)
    except (OSError, ValueError) as error:
        raise MoetraceError(f"{facts.id}: cannot load its tokenizer ({str(error).splitlines()[0]})") from error

"""How a text becomes the tokens that the model is given: as it is, or as a user's message in the chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[list[str]], list[list[int]]]  # texts to the token ids of each


@dataclass(frozen=True)
class PromptSettings:
    """What stands around a text; `chat_template` is Jinja, the tokenizer's own by default."""

    chat: bool = False
    system: str | None = None
    chat_template: str | None = None

    def record(self) -> dict[str, Any]:
        """Return what the run record keeps; a template by its digest, because it can be pages long."""
        template = self.chat_template
        return {
            "chat": self.chat,
            "system": self.system,
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
        }


def encoder(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings, *, answered: bool) -> Encode:
    """Return the function that turns texts into token ids; `answered`: the model goes on after the text.

    Raises MoetraceError for a system prompt or template without chat, and where the tokenizer has no chat template.
    """
    if not settings.chat:
        if settings.system is not None or settings.chat_template is not None:
            raise MoetraceError("--system and --chat-template say what stands around a chat message: add --chat")
        return lambda texts: tokenizer(texts)["input_ids"]
    if settings.chat_template is None and not getattr(tokenizer, "chat_template", None):
        raise MoetraceError(
            "this model's tokenizer has no chat template: give one with --chat-template FILE, or no --chat"
        )
    system = [] if settings.system is None else [{"role": "system", "content": settings.system}]

    def encode(texts: list[str]) -> list[list[int]]:
        messages = [[*system, {"role": "user", "content": text}] for text in texts]
        try:
            rendered = tokenizer.apply_chat_template(
                messages, chat_template=settings.chat_template, tokenize=False, add_generation_prompt=answered
            )
        except Exception as error:  # Jinja's errors, and whatever a template raises on purpose
            if type(error).__module__.partition(".")[0] != "jinja2":
                raise
            raise MoetraceError(f"the chat template refuses the messages ({error})") from error
        encoded: list[list[int]] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return encoded

    return encode


def stop_tokens(tokenizer: PreTrainedTokenizerBase, model: str, revision: str | None) -> tuple[int, ...]:
    """Return the token ids at which the model's own generation stops."""
    from transformers import GenerationConfig  # noqa: PLC0415  seconds to import

    try:
        found = GenerationConfig.from_pretrained(model, revision=revision).eos_token_id
    except OSError:
        found = None  # a checkpoint need not have one
    stops = found if isinstance(found, list) else [found]
    return tuple(sorted({stop for stop in (*stops, tokenizer.eos_token_id) if stop is not None}))

"""How a text becomes the tokens that the model is given: as it is, or as a user's message in the chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.tracer.model.tokenizer import tokenizer_digest

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


@dataclass(frozen=True)
class Encoder:
    """Turns texts into token ids; can be sent to another process, which then needs neither the checkpoint nor torch."""

    tokenizer: PreTrainedTokenizerBase
    settings: PromptSettings
    answered: bool

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text; raise MoetraceError where the chat template refuses one."""
        # Nothing but ids is wanted: making the masks, too, takes a sixth of the time.
        if self.settings.chat:
            encoded = self.tokenizer(self._rendered(texts), add_special_tokens=False, return_attention_mask=False)
        else:
            encoded = self.tokenizer(texts, return_attention_mask=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def digest(self) -> str:
        """Return the sha256 of everything that decides the token ids of a text, beside the text itself."""
        tokenizer, settings = self.tokenizer, self.settings
        files = {name: tokenizer.init_kwargs.get(name) for name in tokenizer.vocab_files_names}
        decides = {
            "tokenizer_sha256": tokenizer_digest(tokenizer),
            "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
            "made_with": {name: str(value) for name, value in tokenizer.init_kwargs.items()},
            "files": {
                name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
                for name, file in files.items()
                if isinstance(file, str) and Path(file).is_file()
            },
            "prompt": [settings.chat, settings.system, settings.chat_template, self.answered],
            "own_template": str(getattr(tokenizer, "chat_template", None)) if settings.chat else None,
            "versions": {name: version(name) for name in ("transformers", "tokenizers", "jinja2")},
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @property
    def vocabulary(self) -> int:
        """Return the number that every token id is below."""
        return max(self.tokenizer.get_vocab().values(), default=0) + 1

    def _rendered(self, texts: list[str]) -> list[str]:
        system = [] if self.settings.system is None else [{"role": "system", "content": self.settings.system}]
        messages = [[*system, {"role": "user", "content": text}] for text in texts]
        try:
            rendered: list[str] = self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.settings.chat_template,
                tokenize=False,
                add_generation_prompt=self.answered,
            )
        except Exception as error:  # Jinja's errors, and whatever a template raises on purpose
            if type(error).__module__.partition(".")[0] != "jinja2":
                raise
            raise MoetraceError(f"the chat template refuses the messages ({error})") from error
        return rendered


def encoder(tokenizer: PreTrainedTokenizerBase, settings: PromptSettings, *, answered: bool) -> Encoder:
    """Return what turns texts into token ids; `answered`: the model goes on after the text.

    Raises MoetraceError for a system prompt or template without chat, and where the tokenizer has no chat template.
    """
    if not settings.chat and (settings.system is not None or settings.chat_template is not None):
        raise MoetraceError("--system and --chat-template say what stands around a chat message: add --chat")
    if settings.chat and settings.chat_template is None and not getattr(tokenizer, "chat_template", None):
        raise MoetraceError(
            "this model's tokenizer has no chat template: give one with --chat-template FILE, or no --chat"
        )
    return Encoder(tokenizer, settings, answered)


def stop_tokens(tokenizer: PreTrainedTokenizerBase, model: str, revision: str | None) -> tuple[int, ...]:
    """Return the token ids at which the model's own generation stops."""
    from transformers import GenerationConfig  # noqa: PLC0415  seconds to import

    try:
        found = GenerationConfig.from_pretrained(model, revision=revision).eos_token_id
    except OSError:
        found = None  # a checkpoint need not have one
    stops = found if isinstance(found, list) else [found]
    return tuple(sorted({stop for stop in (*stops, tokenizer.eos_token_id) if stop is not None}))

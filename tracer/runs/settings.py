"""What is traced and how it is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.store.format.layout import SHARD_TOKENS
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.store.format.weights import MANTISSA_BITS
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.plan.prompts import PromptSettings
from moetrace.tracer.plan.token_filter import TokenFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.steering.choice import SteeredLanguages


@dataclass(frozen=True)
class TraceSettings:
    """What is traced and how it is kept; all but `max_memory` (bytes) and `writers` is part of the run record."""

    languages: tuple[str, ...] = ()
    pivot: str | None = None
    limit: int | None = None
    sample: int | None = None
    sample_seed: int = 0
    text_template: str | None = None
    id_template: str | None = None
    shard_tokens: int = SHARD_TOKENS
    on_long: str = "truncate"
    weight_precision: str = "auto"
    routes: bool = True
    max_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    prompt: PromptSettings = field(default_factory=PromptSettings)
    prompt_only: bool = False
    skip_positions: int = 0
    skip_special: bool = False
    steering: SteeredLanguages | None = None
    max_memory: int | None = None
    writers: int | None = None
    engine: EngineSettings = field(default_factory=EngineSettings)

    def check(self) -> None:
        """Raise MoetraceError for a weight precision that is none."""
        if self.weight_precision != "auto" and self.weight_precision not in MANTISSA_BITS:
            raise MoetraceError(f"--weight-precision {self.weight_precision}: choose auto, {', '.join(MANTISSA_BITS)}")

    def for_model(self, facts: ModelFacts) -> TraceSettings:
        """Return the settings with vLLM's max_model_len: the one asked for, by default the model's window.

        Raises MoetraceError where the model does not take so many tokens, or as many positions are skipped.
        """
        length = self.engine.max_model_len or facts.window
        if not 2 <= length <= facts.window:
            raise MoetraceError(f"--max-model-len {length}: {facts.id} takes 2 to {facts.window} tokens")
        if self.skip_positions >= length - 1:
            raise MoetraceError(
                f"--skip-positions {self.skip_positions}: a text has at most {length - 1} tokens here; lower it"
            )
        return replace(self, engine=replace(self.engine, max_model_len=length))

    @property
    def text_window(self) -> int:
        """The tokens that a text may have: what is left after generated tokens, and one that is sampled.

        Raises MoetraceError where nothing is left.
        """
        length = self.engine.max_model_len or 0
        window = length - 1 - self.max_new_tokens
        if window < 1:
            raise MoetraceError(
                f"--max-new-tokens {self.max_new_tokens} leaves no room for a text in {length} tokens; lower it"
            )
        return window

    def tables(self) -> list[str]:
        """Return the names of the tables that the run has."""
        asked = {"routes": self.routes, "profiles": self.engine.profiles}
        return [name for name in TABLE_NAMES if asked.get(name, True)]

    def filter_record(self) -> dict[str, Any]:
        """Return what the run record keeps of which tokens are left out: what is not as in a run without filters."""
        asked = {name: getattr(self, name) for name in ("prompt_only", "skip_positions", "skip_special")}
        return {name: value for name, value in asked.items() if value}

    def steering_record(self) -> dict[str, Any]:
        """Return what the run record keeps of how texts are steered: nothing where they are not."""
        return {} if self.steering is None else {"steering": self.steering.record()}

    def token_filter(self, special: Sequence[int]) -> TokenFilter | None:
        """Return which tokens are left out, None where none is; `special`: the tokenizer's special token ids."""
        made = TokenFilter(self.prompt_only, self.skip_positions, tuple(special) if self.skip_special else ())
        return made or None

    def generation_record(self) -> dict[str, Any] | None:
        """Return what the run record keeps of how the model goes on after each text; None where it does not."""
        if not self.max_new_tokens:
            return None
        return {name: getattr(self, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}

"""Asking one engine the items of a task, arm after arm."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import log
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.store.intervention import InterventionError
from moetrace.tracer.engine.engine import TracedEngine
from moetrace.tracer.engine.settings import EngineSettings, require_engine
from moetrace.tracer.engine.start import ENGINE_ERRORS, first_line
from moetrace.tracer.evaluation.asking import Asking
from moetrace.tracer.evaluation.numbers import last_number
from moetrace.tracer.evaluation.scored import ScoredTexts
from moetrace.tracer.evaluation.tasks import CHOICE, NUMBER
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.model.tokenizer import load_tokenizer
from moetrace.tracer.plan.prompts import PromptSettings, encoder, stop_tokens
from moetrace.tracer.recording.attach import traced
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.steering.attach import check_fits, steered
from moetrace.tracer.steering.requests import NONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from moetrace.store.intervention import Intervention
    from moetrace.tracer.evaluation.arms import Arm
    from moetrace.tracer.evaluation.scored import Scored
    from moetrace.tracer.evaluation.tasks import Item, Task


@dataclass(frozen=True)
class EvaluationSettings:
    """How items are put.

    - delimiter: between a prompt and an answer
    - max_new_tokens, stops: how far a model writes before its number is read, and the texts that end it
    """

    delimiter: str = " "
    max_new_tokens: int = 256
    stops: tuple[str, ...] = ()
    prompt: PromptSettings = field(default_factory=PromptSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)

    def record(self) -> dict[str, Any]:
        """Return what results keep of it."""
        said = {"delimiter": self.delimiter, "max_new_tokens": self.max_new_tokens, "stops": list(self.stops)}
        return {**said, "prompt": self.prompt.record(), "engine": self.engine.record()}


@dataclass(frozen=True)
class Outcome:
    """How one item came out: metric -> (numerator, denominator), of which a language's value is the ratio of sums.

    - choice: accuracy (of the choice with the highest log-likelihood a character), accuracy_unnormalised (of that with
      the highest log-likelihood), answer_bits_per_byte (of the right choice)
    - number: exact_match
    - perplexity: bits_per_byte, nats_per_token

    said: what it was made of; cut: tokens that the beginning of a prompt lost
    """

    arm: str
    lang: str
    id: str
    values: dict[str, tuple[float, float]]
    said: dict[str, Any]
    cut: int = 0


class Evaluator:
    """An engine that can be steered, and what an item looks like to its model. Close it at the end, or use `with`."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        settings: EvaluationSettings,
        progress: TraceProgress | None = None,
    ) -> None:
        """Read the model's config and tokenizer; the engine is started for the first arm.

        Raises MoetraceError where vLLM is not installed, the model cannot be traced or the settings do not fit it.
        """
        require_engine()
        self.facts = read_facts(model, revision)
        self._progress = progress or TraceProgress()
        self._window = settings.engine.max_model_len or self.facts.window
        if not 2 <= self._window <= self.facts.window:
            raise MoetraceError(
                f"--max-model-len {self._window}: {self.facts.id} takes 2 to {self.facts.window} tokens"
            )
        self._settings = replace(settings, engine=replace(settings.engine, max_model_len=self._window, steering=True))
        self._tokenizer = load_tokenizer(self.facts)
        self._scored = ScoredTexts(self._tokenizer, self._window - 1, settings.delimiter)
        self._encode = encoder(self._tokenizer, settings.prompt, answered=True)
        self._engine: TracedEngine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Shut the engine down, where one was started."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def check(self, arm: Arm) -> None:
        """Raise InterventionError where the model cannot be steered as an arm says."""
        for one in arm.steered.interventions:
            check_fits(one, self.facts)

    def fits(self, intervention: Intervention) -> bool:
        """Tell whether the model can be steered by an intervention."""
        try:
            check_fits(intervention, self.facts)
        except InterventionError:
            return False
        return True

    def run(self, arm: Arm, task: Task, *, record: tuple[str | Path, str] | None = None) -> Iterator[Outcome]:
        """Yield how every item came out, language by language.

        record: a store and the name of a run in it, to keep the routing of everything that is asked

        Raises MoetraceError for an item that cannot be put, and where the engine cannot be started or steered.
        """
        self.check(arm)
        if self._engine is None:
            self._progress.stage(f"starting {self.facts.id}")
            self._engine = TracedEngine(self.facts, self._settings.engine)
        self._progress.stage(f"asking {arm.name}")
        names = {one.digest: one.name for one in arm.steered.interventions}
        with ExitStack() as stack:
            stack.enter_context(steered(self._engine.llm, *arm.steered.interventions, default=NONE))
            labelled = stack.enter_context(self._recording(self._engine, arm, record))
            for lang in task.corpus.languages:
                digest = arm.steered.digest(lang)
                named = NONE if digest is None else names[digest]
                asking = Asking(self._engine.llm, named, labelled(lang), self._progress.advance)
                items = list(task.items(lang))
                try:
                    yield from self._outcomes(asking, arm.name, lang, task.kind, items)
                except ENGINE_ERRORS as error:
                    raise MoetraceError(f"{self.facts.id}: vLLM cannot answer ({first_line(error)})") from error

    @contextmanager
    def _recording(
        self, engine: TracedEngine, arm: Arm, record: tuple[str | Path, str] | None
    ) -> Iterator[Callable[[str], Callable[[Sequence[str]], None]]]:
        """Record what is asked, where that is wanted; what is yielded labels requests with a language, then ids."""
        if record is None:
            yield lambda _: lambda _: None
            return
        store, run = record
        profiles = self._settings.engine.profiles
        with traced(engine.llm, store, run=run, profiles=profiles, steering=arm.steered.record() or None) as trace:

            def labelled(lang: str) -> Callable[[Sequence[str]], None]:
                def said(ids: Sequence[str]) -> None:
                    coming = iter(ids)
                    trace.language, trace.text_id = lang, lambda _: next(coming)

                return said

            yield labelled

    def _outcomes(self, asking: Asking, arm: str, lang: str, kind: str, items: Sequence[Item]) -> Iterator[Outcome]:
        if kind == NUMBER:
            yield from self._numbers(asking, arm, lang, items)
            return
        of_items = [self._sequences(kind, item) for item in items]
        ids = [f"{item.id}#{n}" for item, found in zip(items, of_items, strict=True) for n in range(len(found))]
        likelihoods = iter(asking.log_likelihoods([one for found in of_items for one in found], ids))
        for item, sequences in zip(items, of_items, strict=True):
            mine = [next(likelihoods) for _ in sequences]
            cut = max(one.cut for one in sequences)
            values, said = _chosen(item, mine) if kind == CHOICE else _read(item, sequences, mine)
            yield Outcome(arm, lang, item.id, values, said, cut)

    def _sequences(self, kind: str, item: Item) -> list[Scored]:
        if kind != CHOICE:
            return self._scored.text(item)
        if not self._settings.prompt.chat:
            return self._scored.choices(item)
        (context,) = self._encode([item.text])
        return self._scored.answers(context, item)

    def _numbers(self, asking: Asking, arm: str, lang: str, items: Sequence[Item]) -> Iterator[Outcome]:
        room = self._window - self._settings.max_new_tokens
        if room < 1:
            asked = self._settings.max_new_tokens
            raise MoetraceError(
                f"--max-new-tokens {asked} leaves no room for a question in {self._window} tokens; lower it"
            )
        prompts = [self._scored.prompt(ids, room) for ids in self._encode([item.text for item in items])]
        stop_ids = stop_tokens(self._tokenizer, self.facts.id, self.facts.revision)
        ids = [item.id for item in items]
        written = asking.written(prompts, ids, self._settings.max_new_tokens, stop_ids)
        for item, prompt, tokens in zip(items, prompts, written, strict=True):
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            found = last_number(text, self._settings.stops)
            said = {"text": text, "number": None if found is None else str(found), "right": str(item.number)}
            yield Outcome(arm, lang, item.id, {"exact_match": (float(found == item.number), 1.0)}, said, prompt.cut)


def _chosen(item: Item, likelihoods: Sequence[float]) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Return what a multiple-choice item is worth: the first of the likeliest choices is the one that is taken."""
    by_character = [one / len(choice) for one, choice in zip(likelihoods, item.choices, strict=True)]
    places = range(len(item.choices))
    taken, unnormalised = (max(places, key=scores.__getitem__) for scores in (by_character, likelihoods))
    values = {
        "accuracy": (float(taken == item.answer), 1.0),
        "accuracy_unnormalised": (float(unnormalised == item.answer), 1.0),
        "answer_bits_per_byte": (-likelihoods[item.answer] / log(2), float(len(item.choices[item.answer].encode()))),
    }
    return values, {"choice": taken, "right": item.answer, "log_likelihoods": list(likelihoods)}


def _read(
    item: Item, sequences: Sequence[Scored], likelihoods: Sequence[float]
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    nats, tokens = -sum(likelihoods), sum(len(one.token_ids) - one.first for one in sequences)
    size = len(item.text.encode())
    values = {"bits_per_byte": (nats / log(2), float(size)), "nats_per_token": (nats, float(tokens))}
    return values, {"nats": nats, "tokens": tokens, "bytes": size}

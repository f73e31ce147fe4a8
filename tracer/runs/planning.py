"""The first step of a trace: model and corpus to shards; no weight is loaded and no engine started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moetrace.tracer.corpus.corpus import Corpus, open_corpus
from moetrace.tracer.engine.generation import Generation
from moetrace.tracer.model.facts import ModelFacts, read_facts
from moetrace.tracer.model.synthetic import synthetic_facts
from moetrace.tracer.model.tokenizer import load_tokenizer, special_token_ids
from moetrace.tracer.plan.plan import Plan, make_plan
from moetrace.tracer.plan.progress import SaidNowAndThen
from moetrace.tracer.plan.prompts import encoder, stop_tokens
from moetrace.tracer.plan.tokenising import Effort
from moetrace.tracer.steering.attach import check_fits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moetrace.tracer.plan.token_filter import TokenFilter
    from moetrace.tracer.runs.progress import TraceProgress
    from moetrace.tracer.runs.settings import TraceSettings


@dataclass(frozen=True)
class Inputs:
    """A model and the languages of a corpus that are asked for, known to be there; no text has been read."""

    facts: ModelFacts
    corpus: Corpus


@dataclass(frozen=True)
class PlannedTrace:
    """Everything that is known of a trace before the engine starts.

    - settings: as asked for, with the engine's window filled in
    - tokenizer: what made the tokens of the plan; source: the corpus as it was named
    - generation: how the model goes on after each text, None where it does not
    - token_filter: which tokens are left out of the tables, None where none is
    """

    facts: ModelFacts
    settings: TraceSettings
    tokenizer: PreTrainedTokenizerBase
    source: str
    plan: Plan
    generation: Generation | None
    token_filter: TokenFilter | None


def open_inputs(
    model: str, corpus: str, settings: TraceSettings, *, revision: str | None, progress: TraceProgress
) -> Inputs:
    """Find the corpus and the model.

    Raises MoetraceError where one is not there, the corpus lacks a language, the model is not a Mixture-of-Experts
    model, or an intervention is not for it.
    """
    opened = open_corpus(corpus, text_template=settings.text_template, id_template=settings.id_template)
    opened = opened.only(settings.languages)
    progress.stage(f"reading {model}")
    facts = (synthetic_facts if settings.engine.synthetic else read_facts)(model, revision)
    if settings.steering is not None:
        settings.steering.check_languages(opened.languages)
        for intervention in settings.steering.interventions:
            check_fits(intervention, facts)
    return Inputs(facts, opened)


def plan_trace(inputs: Inputs, settings: TraceSettings, progress: TraceProgress) -> PlannedTrace:
    """Tokenise the corpus and cut it into shards.

    Raises MoetraceError where the settings do not fit the model, for a text that cannot be traced, and where a process
    that tokenises is killed.
    """
    facts, corpus = inputs.facts, inputs.corpus
    progress.stage(f"tokenising {corpus.source}")
    tokenizer = load_tokenizer(facts)
    settings = settings.for_model(facts)
    generation = generation_of(settings, facts, tokenizer)
    token_filter = settings.token_filter(special_token_ids(tokenizer))
    if settings.sample is not None:
        corpus = corpus.sample(settings.sample, settings.sample_seed)
    encode = encoder(tokenizer, settings.prompt, answered=generation is not None)
    plan = make_plan(
        corpus,
        encode,
        shard_tokens=settings.shard_tokens,
        window=settings.text_window,
        on_long=settings.on_long,
        pivot=settings.pivot,
        limit=settings.limit,
        # What a model may write itself is not known before it does.
        token_filter=token_filter if generation is None or settings.prompt_only else None,
        progress=SaidNowAndThen(progress.stage),
        effort=Effort.of_machine(encode),
    )
    return PlannedTrace(facts, settings, tokenizer, corpus.source, plan, generation, token_filter)


def generation_of(settings: TraceSettings, facts: ModelFacts, tokenizer: PreTrainedTokenizerBase) -> Generation | None:
    """Return how the model goes on after each text, None where it does not."""
    if not settings.max_new_tokens:
        return None
    return Generation(
        max_new_tokens=settings.max_new_tokens,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        stop=stop_tokens(tokenizer, facts.id, facts.revision),
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )

"""Training the experts of a mask on a corpus, the whole job: texts, model, losses before and after, what is written.

The output folder holds what was trained (`experts.safetensors`), the mask, the settings, the losses (`results.json`)
and, while training goes on, checkpoints to resume from; all of them are of the size of the mask, not of the model.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import UnknownNameError
from moetrace.store.mask import check_mask_fits
from moetrace.tracer.corpus.corpus import Corpus, open_corpus
from moetrace.tracer.model.facts import ModelFacts, read_facts
from moetrace.tracer.model.tokenizer import load_tokenizer
from moetrace.tracer.plan.prompts import PromptSettings, encoder
from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.output_folder import CHECKPOINTS, OutputFolder
from moetrace.tracer.training.progress import TrainingProgress
from moetrace.tracer.training.settings import DTYPES, TrainingSettings
from moetrace.tracer.training.texts import HeldOut, held_out_texts, is_held_out, training_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from moetrace.tracer.corpus.fields import Text


@dataclass(frozen=True)
class LanguageLoss:
    """The mean next-token loss of a language's held-out texts, nats a token, before and after training."""

    lang: str
    trained: bool
    tokens: int
    before: float
    after: float


@dataclass(frozen=True)
class TrainingResult:
    """What came out; `trained_parameters` of `parameters` learned, `tokens` counts repeats in later epochs."""

    output: Path
    losses: tuple[LanguageLoss, ...]
    steps: int
    tokens: int
    seconds: float
    trained_parameters: int
    parameters: int


def train(
    model: str,
    corpus: str,
    output: str | Path,
    *,
    mask: Mapping[str, Any] | None,
    revision: str | None = None,
    settings: TrainingSettings | None = None,
    resume: bool = False,
    progress: TrainingProgress | None = None,
) -> TrainingResult:
    """Train the experts of `mask` on the languages of `corpus` and write them, and the losses, to the folder `output`.

    Without a mask the whole model is trained, in float32, and written as a checkpoint: the usual baseline. The
    router's load-balancing loss is left out: what is trained is the language. The same arguments give the same result
    on the same machine, interrupted and resumed or not.

    Raises MoetraceError children: no such model or corpus, a mask of another model, an output that is there already
    (without `resume`) or of other settings (with it), a loss that is not finite.
    """
    settings = settings or TrainingSettings()
    progress = progress or TrainingProgress()
    facts = read_facts(model, revision)
    opened = open_corpus(corpus, text_template=settings.text_template, id_template=settings.id_template)
    trained = _trained_languages(settings, mask, opened)
    folder = OutputFolder(Path(output), _identity(facts, opened, mask, trained, settings))
    folder.check(resume=resume)
    if mask is not None:
        check_mask_fits(
            mask,
            config_sha256=facts.config_sha256,
            moe_layers=facts.moe_layers,
            num_experts=facts.num_experts,
            top_k=facts.top_k,
            where="this mask",
        )

    progress.stage(f"reading {corpus}")
    tokenizer = load_tokenizer(facts)
    blocks, held_out = _read(opened, trained, tokenizer, facts, settings)
    progress.stage(f"loading {model}")
    loaded = _load_model(facts, "float32" if mask is None else settings.dtype)
    parameters = sum(parameter.numel() for parameter in loaded.parameters())
    if mask is not None:
        from moetrace.tracer.training.masking import apply_mask  # noqa: PLC0415  torch is slow to import

        apply_mask(loaded, mask, train_router=settings.train_router)
    trainer = _trainer(loaded, tokenizer, blocks, folder, settings, progress, masked=mask is not None)

    folder.begin(mask)
    before = folder.before()
    if before is None:
        progress.stage("held-out loss before", trainer.eval_steps(held_out))
        before = trainer.held_out_loss(held_out)
        folder.keep_before(before)
    start = time.monotonic()
    steps = trainer.fit(folder.last_checkpoint())
    seconds = time.monotonic() - start
    progress.stage("held-out loss after", trainer.eval_steps(held_out))
    after = trainer.held_out_loss(held_out)
    tokens = held_out.tokens()
    result = TrainingResult(
        output=folder.path,
        losses=tuple(LanguageLoss(lang, lang in trained, tokens[lang], before[lang], after[lang]) for lang in tokens),
        steps=steps,
        tokens=trainer.tokens_seen(),
        seconds=seconds,
        trained_parameters=sum(p.numel() for p in loaded.parameters() if p.requires_grad),
        parameters=parameters,
    )
    trainer.write(folder.path)
    folder.finish({**_document(result), "history": trainer.history()})
    return result


def _trained_languages(settings: TrainingSettings, mask: Mapping[str, Any] | None, corpus: Corpus) -> tuple[str, ...]:
    target = mask["strategy"]["target"] if mask is not None else None
    languages = settings.languages or (
        () if target is None else (target,) if isinstance(target, str) else tuple(target)
    )
    if not languages:
        raise TrainingError("the mask names no target language; say what to train on with --lang")
    return corpus.only(languages).languages


def _identity(
    facts: ModelFacts,
    corpus: Corpus,
    mask: Mapping[str, Any] | None,
    trained: tuple[str, ...],
    settings: TrainingSettings,
) -> dict[str, Any]:
    """Return what must be the same for training to go on where it stopped."""
    return {
        "model": facts.id,
        "revision": facts.revision,
        "config_sha256": facts.config_sha256,
        "corpus": corpus.source,
        "experts": None if mask is None else [[item["layer"], item["expert"]] for item in mask["experts"]],
        **asdict(settings),
        "languages": list(trained),
        "eval_languages": list(settings.eval_languages),
    }


def _read(
    corpus: Corpus,
    trained: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    facts: ModelFacts,
    settings: TrainingSettings,
) -> tuple[list[list[int]], HeldOut]:
    if not 2 <= settings.length <= facts.window:
        raise TrainingError(f"--length {settings.length}: {facts.id} takes 2 to {facts.window} tokens")
    encode = encoder(tokenizer, PromptSettings(), answered=False)
    held_out = partial(is_held_out, share=settings.eval_share)
    source = corpus
    if settings.eval_corpus is not None:
        source = open_corpus(
            settings.eval_corpus, text_template=settings.text_template, id_template=settings.id_template
        )

    def is_measured(text: Text) -> bool:
        return settings.eval_corpus is not None or held_out(text.id)

    def is_trained(text: Text) -> bool:
        return settings.eval_corpus is not None or not held_out(text.id)

    if settings.limit is not None:
        corpus = corpus.first(settings.limit)
    blocks = training_blocks(
        corpus,
        trained,
        encode,
        keep=is_trained,
        end=tokenizer.eos_token_id,
        length=settings.length,
        seed=settings.seed,
    )
    measured = source.only(settings.eval_languages).languages
    return blocks, held_out_texts(
        source, measured, encode, keep=is_measured, most=settings.eval_texts, length=settings.length
    )


def _load_model(facts: ModelFacts, dtype: str) -> PreTrainedModel:
    import torch  # noqa: PLC0415  slow to import
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    if dtype not in DTYPES:
        raise UnknownNameError.among("dtype", dtype, DTYPES, "moetrace train")
    if torch.cuda.device_count() > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("training runs in one process on one GPU: set CUDA_VISIBLE_DEVICES to one of them")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            facts.id, revision=facts.revision, dtype=dtype if dtype == "auto" else getattr(torch, dtype)
        )
    except (OSError, ValueError) as error:
        raise TrainingError(f"{facts.id}: cannot load the model ({str(error).splitlines()[0]})") from error
    return model


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    blocks: list[list[int]],
    folder: OutputFolder,
    settings: TrainingSettings,
    progress: TrainingProgress,
    *,
    masked: bool,
) -> Any:
    from moetrace.tracer.training.expert_trainer import ExpertTrainer  # noqa: PLC0415  imports torch and transformers

    return ExpertTrainer(model, tokenizer, blocks, folder.path / CHECKPOINTS, settings, progress, masked=masked)


def _document(result: TrainingResult) -> dict[str, Any]:
    document = {name: value for name, value in asdict(result).items() if name != "output"}
    return {**document, "losses": [asdict(loss) for loss in result.losses], "seconds": round(result.seconds, 3)}

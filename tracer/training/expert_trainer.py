"""transformers' Trainer for masked models: checkpoints hold the trained slices, evaluation is per language."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from moetrace.tracer.training.errors import TrainingError
from moetrace.tracer.training.experts_file import load_experts, save_experts
from moetrace.tracer.training.output_folder import EXPERTS_FILE, WHOLE_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState

    from moetrace.tracer.training.progress import TrainingProgress
    from moetrace.tracer.training.settings import TrainingSettings
    from moetrace.tracer.training.texts import HeldOut

IGNORED = -100  # a label that is not predicted
KEPT_CHECKPOINTS = 2
OFF = ("use_cache", "output_router_logits")


class ExpertTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """A Trainer that saves and loads trained slices only, where the model is masked; the whole model otherwise."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        blocks: Sequence[list[int]],
        checkpoints: Path,
        settings: TrainingSettings,
        progress: TrainingProgress,
        *,
        masked: bool,
    ) -> None:
        self._masked = masked
        self._config = {name: getattr(model.config, name, None) for name in OFF}
        # Without router logits the loss is the language's alone.
        model.config.update(dict.fromkeys(OFF, False))
        set_seed(settings.seed)
        super().__init__(
            model=model,
            args=TrainingArguments(
                output_dir=str(checkpoints),
                num_train_epochs=settings.epochs,
                max_steps=settings.max_steps or -1,
                learning_rate=settings.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=settings.warmup,
                weight_decay=settings.weight_decay,
                optim="adamw_torch",
                per_device_train_batch_size=settings.batch_size,
                per_device_eval_batch_size=settings.batch_size * 2,
                gradient_accumulation_steps=settings.accumulate,
                save_strategy="steps",
                save_steps=settings.save_every,
                save_total_limit=KEPT_CHECKPOINTS,
                logging_steps=10,
                logging_nan_inf_filter=False,
                include_num_input_tokens_seen="non_padding",
                report_to="none",
                disable_tqdm=True,
                seed=settings.seed,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            train_dataset=[_row(block) for block in blocks],
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
            preprocess_logits_for_metrics=_text_losses,
            callbacks=[_Reporting(progress)],
        )
        self.remove_callback(PrinterCallback)

    def eval_steps(self, held_out: HeldOut) -> int:
        """Return the batches of one evaluation."""
        return math.ceil(len(held_out.rows) / int(self.args.eval_batch_size))

    def fit(self, checkpoint: Path | None) -> int:
        """Train, from a checkpoint where there is one, and return the steps that were made in all.

        Raises TrainingError as soon as the loss is not finite.
        """
        return int(self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).global_step)

    def held_out_loss(self, held_out: HeldOut) -> dict[str, float]:
        """Return each language's mean loss over its predicted tokens, nats a token."""
        found = self.predict([_row(row) for row in held_out.rows])
        sums: dict[str, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
        for lang, row in zip(held_out.languages, found.predictions.astype(np.float64), strict=True):
            sums[lang] += row
        return {lang: float(loss / tokens) for lang, (loss, tokens) in sorted(sums.items())}

    def tokens_seen(self) -> int:
        """Return the tokens that were trained on, repeats included."""
        return int(self.state.num_input_tokens_seen)

    def history(self) -> list[dict[str, Any]]:
        """Return the training loss along the way: step, loss, learning_rate, grad_norm."""
        return [
            {name: entry[name] for name in ("step", "loss", "learning_rate", "grad_norm") if name in entry}
            for entry in self.state.log_history
            if "loss" in entry
        ]

    def write(self, folder: Path) -> None:
        """Write what was trained: the experts' slices, or the whole model as a checkpoint."""
        if self._masked:
            save_experts(self.model, folder / EXPERTS_FILE)
        else:
            self.model.config.update(self._config)
            self.model.save_pretrained(folder / WHOLE_MODEL)
            self.data_collator.tokenizer.save_pretrained(folder / WHOLE_MODEL)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self._masked:
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_experts(self.model, folder / EXPERTS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        if not self._masked:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_experts(model or self.model, Path(resume_from_checkpoint) / EXPERTS_FILE)


class _Reporting(TrainerCallback):  # type: ignore[misc]
    """Tells who watches what goes on, and stops at a loss that is no number."""

    def __init__(self, progress: TrainingProgress) -> None:
        self._progress = progress

    def on_train_begin(self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._progress.stage("training", state.max_steps - state.global_step)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._progress.advance()

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        self._progress.advance()

    def on_log(self, _args: TrainingArguments, state: TrainerState, *_: Any, **given: Any) -> None:
        loss = (given.get("logs") or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {state.global_step}; lower --learning-rate, or try --dtype float32"
            )
        self._progress.loss(loss)


def _row(ids: list[int]) -> dict[str, list[int]]:
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}


def _text_losses(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Return [texts, 2] float64: the summed loss of each text's predicted tokens, and how many they are."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    targets = labels[:, 1:]
    # Flat, because over a middle dimension it takes twice the time.
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED
    ).view(targets.shape)
    return torch.stack([losses.double().sum(1), (targets != IGNORED).double().sum(1)], dim=1)

"""Train the bundled micro model: a Qwen3-MoE of 8 layers x 32 experts, top-4, under 12 MB.

`make model` runs this file in two processes, then `measure_model`. It trains a byte-level BPE tokenizer and then the
model, on the documents of `training_texts`, and writes the checkpoint, the tokenizer and what there is to say about the
training. The router sees no language label: what separates the languages is the text alone. The weights as they were
after a sixteenth of the steps are kept in `<scratch>/early`, for its trace.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from moetrace.tracer.bundled.training_texts import (
    LOW_RESOURCE_SHARE,
    REPEATS,
    SEED,
    SEPARATOR,
    Document,
    Text,
    balanced,
    epoch,
    id_fraction,
    read_corpora,
    split,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

END = "<|endoftext|>"
# A word keeps its combining marks (\p{M}): Indic vowel signs stay with their consonants.
WORDS = r" ?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+"
HERE = Path(__file__).parent
SCRATCH = "moetrace-model"
BLOCK = 256  # tokens
IGNORED = -100  # what transformers leaves out of the loss
EARLY = 1 / 16  # of the steps


def train_tokenizer(texts: Sequence[Text], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on an equal number of bytes of each language."""
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        chain(balanced(sorted(texts, key=lambda row: id_fraction(row.id, "order"))), [SEPARATOR] * 1000),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END, model_max_length=1024)


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """Documents in one stream, those of each epoch drawn and shuffled anew, cut into blocks of `BLOCK` tokens.

    Labels are token ids, IGNORED where a document's text is only read. `seen` counts the tokens of each language that
    are in the stream, `counted` those that are predicted.
    """

    def __init__(self, training: Sequence[Text], tokenizer: PreTrainedTokenizerFast, tokens: int) -> None:
        rng = np.random.default_rng(SEED)
        end = tokenizer.convert_tokens_to_ids(END)
        ids = tokenizer([row.text for row in training], add_special_tokens=False)["input_ids"]
        self.separator = len(tokenizer.encode(SEPARATOR.rstrip(), add_special_tokens=False))
        self.lengths = {row: len(found) for row, found in zip(training, ids, strict=True)}
        self.seen: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.epoch_tokens = 0
        pieces: list[np.ndarray] = []
        total = 0
        while total < tokens:
            documents = list(epoch(training, self._fits, rng))
            found = tokenizer([one.text for one in documents], add_special_tokens=False)["input_ids"]
            for i in rng.permutation(len(documents)):
                pieces.append(self._labelled(documents[i], [*found[i], end]))
                total += pieces[-1].shape[1]
                if total >= tokens:
                    break
            self.epoch_tokens = self.epoch_tokens or sum(map(len, found))
        stream = np.concatenate(pieces, axis=1)
        self.blocks = torch.from_numpy(stream[:, : stream.shape[1] // BLOCK * BLOCK].reshape(2, -1, BLOCK))

    def _fits(self, row: Text, partner: Text) -> bool:
        return self.lengths[row] + self.separator + self.lengths[partner] < BLOCK

    def _labelled(self, document: Document, ids: list[int]) -> np.ndarray:
        """Return a document's token ids and labels, [2, tokens], and count them."""
        pair = np.asarray([ids, ids], dtype=np.int64)
        first = self.lengths[document.texts[0]]
        parts = (slice(0, first), slice(first + self.separator, len(ids) - 1))  # the last is the end
        for row, counted, part in zip(document.texts, document.counted, parts, strict=False):
            self.seen[row.lang] += self.lengths[row]
            self.counted[row.lang] += self.lengths[row] if counted else 0
            if not counted:
                pair[1, part] = IGNORED
        return pair

    def __len__(self) -> int:
        return self.blocks.shape[1]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[0, index], "labels": self.blocks[1, index]}


class EarlyCheckpoint(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Writes the weights as they are after `EARLY` of the steps."""

    def __init__(self, model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        self.model, self.tokenizer, self.folder = model, tokenizer, folder

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        """See transformers' TrainerCallback."""
        del args, control
        if state.is_world_process_zero and state.global_step == round(state.max_steps * EARLY):
            write_checkpoint(self.model, self.tokenizer, self.folder)


def write_checkpoint(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model as others load it: bfloat16, with the tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = Qwen3MoeForCausalLM(deepcopy(model.config))  # the training goes on with its own
    stored.load_state_dict(model.state_dict())
    stored.config.output_router_logits = False
    stored.config.use_cache = True
    stored.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_config(vocab_size: int, end: int) -> Qwen3MoeConfig:
    """Return the architecture: about 4.6 M parameters, 0.4 M of them active in the MoE layers of a token."""
    return Qwen3MoeConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=32,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=32,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        router_aux_loss_coef=0.002,
        output_router_logits=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=False,
    )


@click.command()
@click.option("--ui-strings", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--udhr", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--everyday", type=click.Path(exists=True, file_okay=False, path_type=Path), default=HERE / "corpus")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=HERE / "micro")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), default=SCRATCH, show_default=True)
@click.option("--tokens", default=12_000_000, show_default=True, help="Training tokens, repeats included.")
@click.option("--batch", default=16, show_default=True, help="Blocks of 256 tokens a step, of all processes.")
@click.option("--learning-rate", default=2.5e-3, show_default=True)
def main(
    ui_strings: Path,
    udhr: Path,
    everyday: Path,
    output: Path,
    scratch: Path,
    tokens: int,
    batch: int,
    learning_rate: float,
) -> None:
    """Train the bundled model and write it to OUTPUT."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_seed(SEED)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    training, held_out = split(read_corpora(ui_strings, udhr, everyday))
    tokenizer = train_tokenizer(training, vocab_size=8192)
    blocks = Blocks(training, tokenizer, tokens)
    model = Qwen3MoeForCausalLM._from_config(  # noqa: SLF001  the public way reads a checkpoint
        model_config(len(tokenizer), tokenizer.convert_tokens_to_ids(END)), experts_implementation="grouped_mm"
    )
    started = time.monotonic()
    arguments = TrainingArguments(
        output_dir=str(scratch / "trainer"),
        per_device_train_batch_size=batch // processes,
        num_train_epochs=1,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        bf16=False,
        weight_decay=0.05,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        logging_steps=50,
        save_strategy="no",
        report_to=[],
        seed=SEED,
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        ddp_find_unused_parameters=False if processes > 1 else None,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=blocks)
    trainer.add_callback(EarlyCheckpoint(model, tokenizer, scratch / "early"))
    trainer.train()
    if not trainer.is_world_process_zero():
        return
    write_checkpoint(model, tokenizer, output)
    record: dict[str, Any] = {
        "seed": SEED,
        "training_tokens": int(blocks.blocks[0].numel()),
        "counted_tokens": int((blocks.blocks[1] != IGNORED).sum()),
        "epoch_tokens": blocks.epoch_tokens,
        "early": EARLY,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "learning_rate": learning_rate,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "texts": {"training": len(training), "held_out": len(held_out)},
        "repeats": REPEATS,
        "low_resource_share": LOW_RESOURCE_SHARE,
        "languages": {
            lang: {"training_texts": count, "training_tokens": blocks.counted[lang], "read_tokens": blocks.seen[lang]}
            for lang, count in sorted(Counter(row.lang for row in training).items())
        },
    }
    (output / "training.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    log.info("trained %.1f minutes", record["minutes"])


if __name__ == "__main__":
    main()

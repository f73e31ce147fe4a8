"""Train the bundled micro model: a Qwen3-MoE of 8 layers x 32 experts, top-4, under 10 MB.

`make model` runs this file. It trains a byte-level BPE tokenizer and then the model, on the texts of the training
folders minus a held-out part, and writes the checkpoint, the tokenizer and a model card with the held-out loss of
each language. The router sees no language label: what separates the languages is the text alone.

The data are three parallel corpora: Home Assistant's user-interface strings (30 languages), the Universal
Declaration of Human Rights (24 languages) and the everyday sentences bundled here (12 languages). Texts are held out
by id, the same ids in every language, so that no held-out text was seen in any language.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
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
    TrainingArguments,
    set_seed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

from moetrace.tracer.bundled.model_card import write_card

log = logging.getLogger(__name__)

END = "<|endoftext|>"
# A word keeps its combining marks (\p{M}): Indic vowel signs stay with their consonants.
WORDS = r" ?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+|\s+"
HERE = Path(__file__).parent
SEED = 20260

EVERYDAY_HELD_OUT = 12  # of 60 ids, the last ones
HELD_OUT_SHARE = {"ui-strings": 0.04, "udhr": 0.12}
LOW_RESOURCE_SHARE = {"gle_Latn": 0.10, "mal_Mlym": 0.10, "gsw_Latn": 0.10}
REPEATS = {"ui-strings": 1, "udhr": 6, "everyday": 8}


@dataclass(frozen=True)
class Text:
    """One text of one of the training corpora."""

    corpus: str
    lang: str
    id: str
    text: str


def read_corpus(name: str, folder: Path) -> list[Text]:
    """Return every text of a folder of `<lang>.jsonl` files, in file order."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            rows += [Text(name, path.stem, r["id"], r["text"]) for r in map(json.loads, lines) if r["text"].strip()]
    if not rows:
        raise click.ClickException(f"{folder}: no .jsonl files with texts to train on")
    return rows


def id_fraction(text_id: str, salt: str) -> float:
    """Map a text id to [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{text_id}".encode()).digest()[:8], "big") / 2**64


def is_held_out(row: Text) -> bool:
    """Tell whether a text is for measuring only; decided by its id, so alike in every language."""
    if row.corpus == "everyday":
        return int(row.id.rsplit("-", 1)[1]) > 60 - EVERYDAY_HELD_OUT
    return id_fraction(row.id, f"{SEED}:{row.corpus}") < HELD_OUT_SHARE[row.corpus]


def is_withheld(row: Text) -> bool:
    """Tell whether a text is dropped from training to keep a low-resource language low-resource."""
    share = LOW_RESOURCE_SHARE.get(row.lang, 1.0) if row.corpus == "ui-strings" else 1.0
    return id_fraction(row.id, f"{SEED}:withhold") >= share


def train_tokenizer(texts: Iterable[Text], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on an equal number of bytes of each language (at most 60 kB)."""
    budget: dict[str, int] = defaultdict(lambda: 60_000)

    def balanced() -> Iterator[str]:
        for row in texts:
            if budget[row.lang] > 0:
                budget[row.lang] -= len(row.text.encode())
                yield row.text

    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        balanced(),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END, model_max_length=1024)


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """Texts of all languages in one shuffled stream, cut into blocks of `length` tokens, shuffled anew each epoch."""

    def __init__(self, texts: list[list[int]], end: int, length: int, tokens: int) -> None:
        rng = np.random.default_rng(SEED)
        pieces: list[np.ndarray] = []
        total = 0
        while total < tokens:
            for i in rng.permutation(len(texts)):
                pieces.append(np.asarray([*texts[i], end], dtype=np.int64))
                total += len(texts[i]) + 1
        stream = np.concatenate(pieces)
        self.blocks = torch.from_numpy(stream[: len(stream) // length * length].reshape(-1, length))

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


@torch.no_grad()
def held_out_loss(model: Qwen3MoeForCausalLM, texts: list[Text], ids: list[list[int]]) -> dict[str, dict[str, float]]:
    """Return per language the mean next-token loss (nats a token) and bits a byte; one text is one sequence."""
    model.eval()
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), 32):
        batch = [i for i in order[start : start + 32] if len(ids[i]) > 1]
        if not batch:
            continue
        width = min(max(len(ids[i]) for i in batch), 1024)
        inputs = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(inputs)
        for row, i in enumerate(batch):
            piece = torch.tensor(ids[i][:width])
            inputs[row, : len(piece)], mask[row, : len(piece)] = piece, 1
        logits = model(input_ids=inputs, attention_mask=mask).logits[:, :-1].float()
        losses = (
            torch.nn.functional.cross_entropy(logits.transpose(1, 2), inputs[:, 1:], reduction="none") * mask[:, 1:]
        )
        for row, i in enumerate(batch):
            entry = sums[texts[i].lang]
            entry[0] += float(losses[row].sum())
            entry[1] += int(mask[row, 1:].sum())
            entry[2] += len(texts[i].text.encode())
    return {
        lang: {"loss": nats / tokens, "bits_per_byte": nats / math.log(2) / size, "tokens": tokens}
        for lang, (nats, tokens, size) in sorted(sums.items())
    }


def model_config(vocab_size: int, end: int) -> Qwen3MoeConfig:
    """Return the architecture: about 3.5 M parameters, 0.5 M of them active in the MoE layers of a token."""
    return Qwen3MoeConfig(
        vocab_size=vocab_size,
        hidden_size=96,
        intermediate_size=192,
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


def file_sizes(folder: Path) -> dict[str, int]:
    """Return name -> bytes of the files of a folder."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}


@click.command()
@click.option("--ui-strings", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--udhr", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--everyday", type=click.Path(exists=True, file_okay=False, path_type=Path), default=HERE / "corpus")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=HERE / "micro")
@click.option("--tokens", default=5_000_000, show_default=True, help="Training tokens, repeats included.")
@click.option("--batch", default=16, show_default=True, help="Blocks of 256 tokens a step.")
@click.option("--learning-rate", default=2.5e-3, show_default=True)
def main(
    ui_strings: Path, udhr: Path, everyday: Path, output: Path, tokens: int, batch: int, learning_rate: float
) -> None:
    """Train the bundled model and write it to OUTPUT."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_seed(SEED)
    corpora = {"ui-strings": ui_strings, "udhr": udhr, "everyday": everyday}
    rows = [row for name, folder in corpora.items() for row in read_corpus(name, folder)]
    held_out = [row for row in rows if is_held_out(row)]
    training = [row for row in rows if not is_held_out(row) and not is_withheld(row)]
    tokenizer = train_tokenizer(sorted(training, key=lambda row: id_fraction(row.id, "order")), vocab_size=8192)
    end = tokenizer.convert_tokens_to_ids(END)
    repeated = [row for row in training for _ in range(REPEATS[row.corpus])]
    train_ids = tokenizer([row.text for row in repeated], add_special_tokens=False)["input_ids"]
    held_ids = tokenizer([row.text for row in held_out], add_special_tokens=False)["input_ids"]
    per_language: dict[str, int] = defaultdict(int)
    for row, ids in zip(repeated, train_ids, strict=True):
        per_language[row.lang] += len(ids)
    log.info(
        "%d training texts, %d held out, %d tokens an epoch", len(training), len(held_out), sum(per_language.values())
    )

    model = Qwen3MoeForCausalLM._from_config(  # noqa: SLF001  the public way reads a checkpoint
        model_config(len(tokenizer), end), experts_implementation="grouped_mm"
    )
    blocks = Blocks(train_ids, end, length=256, tokens=tokens)
    started = time.monotonic()
    arguments = TrainingArguments(
        output_dir=str(output.with_suffix(".trainer")),
        per_device_train_batch_size=batch,
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
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=blocks).train()
    minutes = (time.monotonic() - started) / 60

    model.config.output_router_logits = False
    model.config.use_cache = True
    model = model.to(torch.bfloat16)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    losses = held_out_loss(Qwen3MoeForCausalLM.from_pretrained(output, dtype=torch.float32), held_out, held_ids)
    for lang, entry in losses.items():
        entry["training_tokens_an_epoch"] = per_language.get(lang, 0)
    record: dict[str, Any] = {
        "seed": SEED,
        "training_tokens": int(blocks.blocks.numel()),
        "epoch_tokens": sum(per_language.values()),
        "minutes": round(minutes, 1),
        "learning_rate": learning_rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out": losses,
        "texts": {"training": len(training), "held_out": len(held_out)},
        "repeats": REPEATS,
        "low_resource_share": LOW_RESOURCE_SHARE,
        "example": asdict(held_out[0]),
    }
    (output / "training.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_card(output)
    log.info("trained %.1f minutes; files: %s", minutes, file_sizes(output))


if __name__ == "__main__":
    main()

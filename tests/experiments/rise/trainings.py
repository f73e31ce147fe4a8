"""One training of the experiment, and keeping it: the same loop for every way to train, measured along the way.

The held-out losses of all languages are measured at `POINTS` of the steps, so that a training is a curve. The learning
rate is constant after a short warm-up: each point is what one has who stops there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

VERSION = 1  # of the loop: another one trains anew
POINTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the steps
LENGTH, BATCH = 128, 16  # tokens of a block, blocks of a step
WARMUP = 3  # steps
EVALUATED = 32  # texts of a batch


@dataclass(frozen=True)
class Job:
    """One training, by everything that determines what comes out.

    experts: of the mask, as (layer, expert); None where there is no mask. rank: of LoRA. texts: digest of the files.
    """

    model: str
    model_sha256: str
    texts: str
    texts_sha256: str
    part: str
    target: str
    languages: tuple[str, ...]
    method: str
    draw: int
    experts: tuple[tuple[int, int], ...] | None
    mask: str | None
    rank: int | None
    rate: float
    seed: int
    epochs: int
    others_texts: int
    target_texts: int

    @property
    def key(self) -> str:
        """The digest of what determines the training; where the files lie is not a part of it."""
        facts = asdict(replace(self, model="", texts="", mask=None))
        return hashlib.sha256(json.dumps([VERSION, POINTS, LENGTH, BATCH, WARMUP, facts]).encode()).hexdigest()[:24]

    def file(self, folder: Path) -> Path:
        """Return where its outcome is kept."""
        return folder / f"{self.target}-{self.method}-{self.key}.json"


def file_digest(paths: Sequence[Path]) -> str:
    """Return one digest of some files' names and contents."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def kept(job: Job, folder: Path) -> dict[str, Any] | None:
    """Return the outcome of a training that was finished before, None where it has to be done."""
    try:
        found = json.loads(job.file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("key") == job.key and "curve" in found else None


def keep(job: Job, folder: Path, outcome: dict[str, Any]) -> None:
    """Write an outcome: whole, or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = job.file(folder)
    staged = file.with_suffix(f".{os.getpid()}")
    staged.write_text(json.dumps(outcome), encoding="utf-8")
    staged.replace(file)


def run_job(job: Job, folder: Path) -> None:
    """Train once, on one thread, unless it was done before."""
    if kept(job, folder) is None:
        keep(job, folder, train(job))


def train(job: Job) -> dict[str, Any]:
    """Train, and return the losses of every language at each point: nats a token, in the order of `languages`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    begun = time.monotonic()
    model: Any = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    model.config.use_cache = False
    trained = trainable(model, job)
    blocks, held_out = texts_of(job)
    optimizer = torch.optim.AdamW(trained, lr=job.rate, weight_decay=0.0)
    steps = batches(blocks, job.epochs, job.seed)
    points = {max(1, round(len(steps) * point)) for point in POINTS}
    curve = [{"step": 0, "losses": losses(model, held_out, job.languages)}]
    for step, batch in enumerate(steps, start=1):
        for group in optimizer.param_groups:
            group["lr"] = job.rate * min(1.0, step / WARMUP)
        optimizer.zero_grad()
        ids, labels = padded(batch)
        model.train()
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step in points:
            curve.append({"step": step, "losses": losses(model, held_out, job.languages)})
    return {
        "key": job.key,
        "curve": curve,
        "parameters": sum(one.numel() for one in trained),
        "seconds": round(time.monotonic() - begun, 1),
    }


def trainable(model: Any, job: Job) -> list[nn.Parameter]:
    """Make what the method trains trainable, and return it."""
    if job.mask is not None:
        from moetrace.store.mask import read_mask
        from moetrace.tracer.training import apply_mask

        apply_mask(model, read_mask(job.mask), train_router=job.method == "rise+router")
    elif job.rank is not None:
        from peft import LoraConfig, inject_adapter_in_model

        modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
        model.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=job.rank, lora_alpha=2 * job.rank, target_modules=modules), model)
    return [one for one in model.parameters() if one.requires_grad]


def lora_rank(config: Any, parameters: int) -> int:
    """Return the rank of LoRA on the attention's four projections that has the nearest number of parameters."""
    query, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    each = 2 * (config.hidden_size + query) + 2 * (config.hidden_size + keys)
    return max(1, round(parameters / (each * config.num_hidden_layers)))


def batches(blocks: list[list[int]], epochs: int, seed: int) -> list[list[list[int]]]:
    """Return the blocks of each step: every epoch in another order, the same for every method of a seed."""
    import numpy as np

    rng = np.random.default_rng([seed, 1])
    order = [blocks[i] for _ in range(epochs) for i in rng.permutation(len(blocks))]
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of token ids as [rows, tokens], and labels that leave the padding out."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = labels[at, : len(row)] = torch.tensor(row)
    return ids, labels


def losses(model: Any, held_out: Any, languages: Sequence[str]) -> list[float]:
    """Return each language's mean loss over its predicted tokens; padding stands behind what is predicted."""
    import torch

    model.eval()
    sums = dict.fromkeys(languages, 0.0)
    with torch.inference_mode():
        for start in range(0, len(held_out.rows), EVALUATED):
            ids, labels = padded(held_out.rows[start : start + EVALUATED])
            logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
            each = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="none")
            found = each.view(len(ids), -1).double().sum(1).tolist()
            for lang, one in zip(held_out.languages[start : start + EVALUATED], found, strict=True):
                sums[lang] += one
    tokens = held_out.tokens()
    return [round(sums[lang] / tokens[lang], 5) for lang in languages]


def texts_of(job: Job) -> tuple[list[list[int]], Any]:
    """Return the blocks that are trained on and the texts that are measured."""
    return _texts(job.model, job.texts, job.part, job.target, job.languages, job.others_texts, job.target_texts)


@cache
def _texts(
    model: str, texts: str, part: str, target: str, languages: tuple[str, ...], others_texts: int, target_texts: int
) -> tuple[list[list[int]], Any]:
    from moetrace.tracer.corpus.corpus import open_corpus
    from moetrace.tracer.model.facts import read_facts
    from moetrace.tracer.model.tokenizer import load_tokenizer
    from moetrace.tracer.plan.prompts import PromptSettings, encoder
    from moetrace.tracer.training.texts import HeldOut, held_out_texts, training_blocks

    tokenizer = load_tokenizer(read_facts(model, None))
    encode = encoder(tokenizer, PromptSettings(), answered=False)
    adapt, measured = open_corpus(str(Path(texts) / "adapt")), open_corpus(str(Path(texts) / part))
    every = {"keep": lambda _: True, "length": LENGTH}
    end = tokenizer.eos_token_id
    blocks = training_blocks(adapt, [target], encode, end=end, seed=0, **every)
    others = [lang for lang in languages if lang != target]
    found = [
        held_out_texts(measured, others, encode, most=others_texts, **every),
        held_out_texts(measured, [target], encode, most=target_texts, **every),
    ]
    rows = sorted((len(row), lang, row) for one in found for row, lang in zip(one.rows, one.languages, strict=True))
    return blocks, HeldOut([row for _, _, row in rows], [lang for _, lang, _ in rows])

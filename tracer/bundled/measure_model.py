"""Measure the bundled model on the texts that were held out, write its model card, trace its early checkpoint.

The second half of `make model`. What it finds goes into the checkpoint's training.json: per language the held-out loss,
how the model reads a text after the right and after a wrong English one, and, by layer, how much more alike a text and
its translation are routed than texts of other ids (`excess` of `pivot_similarity`).
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from transformers import AutoTokenizer, Qwen3MoeForCausalLM

from moetrace.tracer.bundled import CORPUS, EARLY, EARLY_RUN, MODEL
from moetrace.tracer.bundled.command import moetrace
from moetrace.tracer.bundled.make_model import SCRATCH
from moetrace.tracer.bundled.model_card import write_card
from moetrace.tracer.bundled.reading import reading_losses, readings
from moetrace.tracer.bundled.training_texts import Text, read_corpora, split, write_corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

LONGEST = 1024  # tokens of a text that is measured


@torch.no_grad()
def held_out_loss(model: Qwen3MoeForCausalLM, tokenizer: Any, texts: Sequence[Text]) -> dict[str, dict[str, float]]:
    """Return per language the mean loss of every token after a text's first, in nats; a text is a sequence."""
    sums: dict[str, float] = defaultdict(float)
    tokens: Counter[str] = Counter()
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text.text, add_special_tokens=False)[:LONGEST]])
        if ids.shape[1] > 1:
            logits = model(input_ids=ids).logits[0, :-1].float()
            sums[text.lang] += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            tokens[text.lang] += ids.shape[1] - 1
    return {lang: {"loss": sums[lang] / tokens[lang], "tokens": tokens[lang]} for lang in sorted(sums)}


def excess_by_layer(model: Path, texts: Sequence[Text], folder: Path) -> dict[str, list[float]]:
    """Return per language the excess similarity to English of each layer, of texts traced through a model."""
    corpus, store = folder / "corpus", folder / "store"
    write_corpus(texts, corpus)
    moetrace("trace", model, "--corpus", corpus, "--store", store, "--dtype", "float32", "--no-routes")
    query = "select lang, list(excess order by layer) as excess from pivot_similarity group by lang order by lang"
    return {row["lang"]: row["excess"] for row in json.loads(moetrace("sql", store, query, "--format", "json"))}


def trace_early(checkpoint: Path, store: Path) -> None:
    """Trace the bundled corpus through the early checkpoint into the store that the package keeps.

    Both are named without their folders, so that the record says the same wherever this runs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        shutil.copytree(checkpoint, place / "moetrace-micro-early")
        shutil.copytree(CORPUS, place / "everyday")
        arguments = ("--store", "store", "--run", EARLY_RUN, "--dtype", "float32", "--no-routes")
        moetrace("trace", "moetrace-micro-early", "--corpus", "everyday", *arguments, cwd=place)
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(place / "store", store)


@click.command()
@click.option("--ui-strings", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--udhr", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--everyday", type=click.Path(exists=True, file_okay=False, path_type=Path), default=CORPUS)
@click.option("--model", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=MODEL)
@click.option("--checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path), default=f"{SCRATCH}/early")
@click.option("--early", type=click.Path(file_okay=False, path_type=Path), default=EARLY, help="Store to write.")
def main(ui_strings: Path, udhr: Path, everyday: Path, folder: Path, checkpoint: Path, early: Path) -> None:
    """Measure the trained model, write its card, and trace its early checkpoint into a store."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _, held_out = split(read_corpora(ui_strings, udhr, everyday))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    record["held_out"] = held_out_loss(model, tokenizer, held_out)
    log.info("held-out loss measured")
    record["reading"] = reading_losses(model, tokenizer, readings(held_out))
    log.info("reading after English measured")
    strings = [text for text in held_out if text.corpus == "ui-strings"]
    record["excess"] = {}
    for name, place in (("final", folder), ("early", checkpoint)):
        with tempfile.TemporaryDirectory() as scratch:
            record["excess"][name] = excess_by_layer(place, strings, Path(scratch))
    (folder / "training.json").write_text(json.dumps(_rounded(record), indent=1) + "\n", encoding="utf-8")
    write_card(folder)
    trace_early(checkpoint, early)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    main()

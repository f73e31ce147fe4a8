"""How long null models and bootstrap intervals take. `make bench-uncertainty`.

A store of 20 languages x 200 texts x 48 layers x 128 experts, top-8: all 190 pairs of languages, 1,000 permutations or
replicates, reading the store included. Wall seconds on all cores.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty import bootstrap, null_model
from moetrace.store.shard.shard import Shard
from moetrace.store.write.writer import StoreWriter
from tests.support.stores import make_record

LAYERS, EXPERTS, TOP_K = 48, 128, 8


def routed(path: Path, languages: int, texts: int, tokens: int) -> Path:
    """Write texts of so many tokens each, routed by a taste of each language."""
    rng = np.random.default_rng(0)
    names = [f"l{number:02d}_Latn" for number in range(languages)]
    record = make_record(
        languages=names,
        moe_layers=range(LAYERS),
        num_experts=EXPERTS,
        top_k=TOP_K,
        tables=("sequences", "tokens", "routes", "usage"),
    )
    total = texts * tokens
    with StoreWriter(path, record) as writer:
        for lang in names:
            taste = rng.standard_normal((LAYERS, 1, EXPERTS), dtype=np.float32)
            experts = np.empty((LAYERS, TOP_K, total), np.uint8)
            for layer in range(LAYERS):
                logits = taste[layer] + 1.5 * rng.standard_normal((total, EXPERTS), dtype=np.float32)
                experts[layer] = np.argpartition(logits, -TOP_K, axis=-1)[:, -TOP_K:].T
            writer.write(
                Shard(
                    lang=lang,
                    number=0,
                    seqs=np.arange(texts, dtype=np.int32),
                    text_ids=[str(text) for text in range(texts)],
                    lengths=np.full(texts, tokens, dtype=np.int32),
                    truncated=np.zeros(texts, dtype=bool),
                    token_ids=rng.integers(0, 5000, total).astype(np.int32),
                    experts=experts,
                    weights=np.full(experts.shape, 1 / TOP_K, dtype=np.float32),
                    profiles=None,
                )
            )
    return path


@click.command()
@click.option("--languages", default=20, show_default=True)
@click.option("--texts", default=200, show_default=True)
@click.option("--tokens", default=20, show_default=True, help="Of each text.")
def main(languages: int, texts: int, tokens: int) -> None:
    """Print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores; {languages} languages x {texts} texts x {tokens} tokens\n")
    print("| what, 1,000 times | wall seconds | CPU seconds |\n|---|---:|---:|")
    with TemporaryDirectory() as folder:
        connection = connect(routed(Path(folder) / "store", languages, texts, tokens))
        for name, function in (("null_model", null_model), ("bootstrap", bootstrap)):
            for metric in ("divergence", "jaccard", "routing_entropy"):
                against = {"against": "l00_Latn"} if (name, metric) == ("null_model", "routing_entropy") else {}
                wall, cpu = time.perf_counter(), time.process_time()
                function(connection, metric, **against)
                found = time.perf_counter() - wall, time.process_time() - cpu
                print(f"| {name} of {metric} | {found[0]:.1f} | {found[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""The shards that benchmarks write: synthetic ones, those that ESFT published, and those of a store."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from moetrace.store.read.reader import Store
from moetrace.store.shard.shard import Shard
from tests.support.stores import make_record

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.format.records import RunRecord

TEXT = 85  # tokens


def routed(tokens: int, layers: int, top_k: int, experts: int) -> tuple[RunRecord, Shard]:
    """Route random tokens, their ids after Zipf, by token, text and what the layer before had, with some noise."""
    rng = np.random.default_rng(0)
    token_ids = np.minimum(rng.zipf(1.3, tokens), 4000).astype(np.int32)
    starts = np.arange(0, tokens, TEXT)
    lengths = np.diff(np.append(starts, tokens)).astype(np.int32)
    text = np.repeat(np.arange(len(starts)), lengths)
    chosen = np.empty((layers, top_k, tokens), dtype=np.uint8)
    weights = np.empty((layers, top_k, tokens), dtype=np.float32)
    profiles = np.empty((layers, len(starts), experts), dtype=np.float32)
    kept = np.zeros((tokens, experts), dtype=np.float32)
    for layer in range(layers):
        taste = 1.6 * rng.standard_normal((4001, experts), dtype=np.float32)
        kept = 0.4 * kept + rng.standard_normal((tokens, experts), dtype=np.float32)
        logits = taste[token_ids] + 0.5 * rng.standard_normal((len(starts), experts), dtype=np.float32)[text]
        logits += 0.6 * kept
        best = np.argpartition(-logits, top_k - 1, axis=1)[:, :top_k]
        gates = np.exp(np.take_along_axis(logits, best, axis=1))
        probabilities = np.exp(logits)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        chosen[layer], weights[layer] = best.T, (gates / gates.sum(axis=1, keepdims=True)).T
        profiles[layer] = np.add.reduceat(probabilities, starts) / lengths[:, None]
    record = make_record(languages=("eng_Latn",), moe_layers=range(layers), num_experts=experts, top_k=top_k)
    return record, shard_of(token_ids, lengths, chosen, weights, profiles)


def shard_of(
    token_ids: np.ndarray, lengths: np.ndarray, experts: np.ndarray, weights: np.ndarray, profiles: np.ndarray | None
) -> Shard:
    """Return a shard of experts and weights [L, k, T] and profiles [L, S, E]."""
    return Shard(
        lang="eng_Latn",
        number=0,
        seqs=np.arange(len(lengths), dtype=np.int32),
        text_ids=[str(number) for number in range(len(lengths))],
        lengths=lengths.astype(np.int32),
        truncated=np.zeros(len(lengths), dtype=bool),
        token_ids=token_ids.astype(np.int32),
        experts=experts,
        weights=weights,
        profiles=profiles,
    )


def published(archive: Path) -> tuple[RunRecord, Shard]:
    """Read an ESFT trace: 26 layers x 64 experts, top-6, weights of 4 decimals; no token ids, no profiles."""
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if (file := tar.extractfile(member)) and "expert_weights_" in member.name:
                halves = [line.split("\t\t") for line in file.read().decode().splitlines() if line.strip()]
                ids, gates = (
                    [np.array(half[side].split("\t"), dtype=np.float32).reshape(-1, 6) for half in halves]
                    for side in (0, 1)
                )
                lengths = np.array([len(text) for text in ids])
                found[int(member.name.split("_")[-1].split(".")[0])] = (
                    np.concatenate(ids).T.astype(np.uint8),
                    np.concatenate(gates).T,
                )
    experts, weights = (np.stack([found[layer][side] for layer in sorted(found)]) for side in (0, 1))
    record = make_record(
        languages=("eng_Latn",),
        moe_layers=sorted(found),
        num_experts=64,
        top_k=6,
        tables=("sequences", "tokens", "routes", "usage"),
    )
    return record, shard_of(np.zeros(experts.shape[2], dtype=np.int32), lengths, experts, weights, None)


def stored(path: Path, most: int) -> tuple[RunRecord, Shard]:
    """Put the first shards of a store's only run together again, up to `most` tokens; ranks in a random order."""
    opened = Store(path)
    record = opened.run()
    files = {name: opened.files(name) for name in ("sequences", "tokens", "routes", "profiles")}
    read = lambda name, number: pq.read_table(files[name][number].location, partitioning=None)  # noqa: E731
    parts: list[list[np.ndarray]] = []
    layers, top_k, total = len(record.moe_layers), record.top_k, 0
    for number in range(len(files["routes"])):
        tokens = read("tokens", number)
        count = len(tokens)
        if parts and total + count > most:
            break
        total += count
        at = np.lexsort((tokens["position"].to_numpy(), tokens["seq"].to_numpy()))
        routes = read("routes", number)
        grid = (layers, top_k, count)
        parts.append(
            [
                tokens["token_id"].to_numpy()[at],
                read("sequences", number)["tokens"].to_numpy(),
                routes["expert"].to_numpy().reshape(grid)[:, :, tokens["token"].to_numpy()[at]],
                routes["weight"].to_numpy().reshape(grid)[:, :, tokens["token"].to_numpy()[at]],
                read("profiles", number)["probability"].to_numpy().reshape(layers, -1, record.num_experts),
            ]
        )
    token_ids, lengths, experts, weights, profiles = (
        np.concatenate(column, axis=axis)
        for column, axis in zip(zip(*parts, strict=True), (0, 0, 2, 2, 1), strict=True)
    )
    mixed = np.random.default_rng(0).permuted(np.broadcast_to(np.arange(top_k)[:, None], experts.shape[1:]), axis=0)
    experts, weights = (np.take_along_axis(values, mixed[None], axis=1) for values in (experts, weights))
    record = make_record(
        languages=("eng_Latn",), moe_layers=record.moe_layers, num_experts=record.num_experts, top_k=top_k
    )
    return record, shard_of(token_ids, lengths, experts, weights, profiles)

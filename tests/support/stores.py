"""Small synthetic stores: worlds of texts whose routing is known, written through the real writer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.records import RunRecord
from moetrace.store.read.reader import Store
from moetrace.store.shard.counts import Counts
from moetrace.store.shard.shard import Shard
from moetrace.store.write.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Text:
    """One text: experts and weights are [tokens, layers, top_k], the profile is [layers, experts].

    The model generated the last `generated` of the tokens.
    """

    text_id: str
    token_ids: np.ndarray
    experts: np.ndarray
    weights: np.ndarray
    profile: np.ndarray
    generated: int = 0


@dataclass(frozen=True)
class World:
    """One run: its record and the texts of each language."""

    record: RunRecord
    texts: Mapping[str, Sequence[Text]]


def make_record(
    run: str = "run",
    languages: Sequence[str] = ("eng_Latn", "deu_Latn", "swh_Latn"),
    moe_layers: Sequence[int] = (1, 2, 5),
    num_experts: int = 8,
    top_k: int = 2,
    tables: Sequence[str] = ("sequences", "tokens", "routes", "profiles", "usage"),
) -> RunRecord:
    return RunRecord(
        run=run,
        model={
            "id": "synthetic",
            "revision": None,
            "config_sha256": "0" * 64,
            "family": "qwen3_moe",
            "moe_layers": list(moe_layers),
            "num_layers": max(moe_layers) + 1,
            "num_experts": num_experts,
            "top_k": top_k,
            "dtype": "float32",
            "tokenizer_sha256": "0" * 64,
            "parameters_per_expert": 1000,
            "parameters": 1000 * num_experts * len(moe_layers) * 2,
        },
        routing={"scoring": "softmax", "normalized": True, "scale": 1.0, "selection_bias": False},
        corpus={
            "sha256": "0" * 64,
            "languages": list(languages),
            "pivot": languages[0],
            "texts": {},
            "tokens": {},
            "shards": {},
        },
        settings={"weight_precision": "f32", "tables": list(tables)},
    )


def make_world(
    seed: int,
    record: RunRecord | None = None,
    texts: int = 6,
    unused_experts: int = 1,
    alike: Sequence[tuple[str, str]] = (),
) -> World:
    """Make texts with a taste of experts per language, of unequal number and length, some ids missing here and there.

    The last `unused_experts` are never routed to; of each pair in `alike` the second gets the texts of the first.
    """
    record = record or make_record()
    rng = np.random.default_rng(seed)
    made: dict[str, list[Text]] = {}
    for lang in record.corpus["languages"]:
        taste = rng.normal(size=(len(record.moe_layers), record.num_experts))
        taste[:, record.num_experts - unused_experts :] = -50
        kept = [f"text-{number}" for number in range(texts) if number == 0 or rng.random() < 0.8]
        made[lang] = [_make_text(rng, record, text_id, taste) for text_id in rng.permutation(kept)]
    for first, second in alike:
        made[second] = made[first]
    return World(record, made)


def write_world(path: Path, world: World, texts_in_shard: int = 3) -> Store:
    """Write a run; the store may hold others."""
    writer = StoreWriter(path, world.record)
    for shard in shards_of(world, texts_in_shard):
        writer.write(shard)
    return Store(path)


def shards_of(world: World, texts_in_shard: int) -> Iterator[Shard]:
    """Cut a run into shards."""
    for lang, texts in world.texts.items():
        for number, start in enumerate(range(0, len(texts), texts_in_shard)):
            yield make_shard(world.record, lang, number, start, texts[start : start + texts_in_shard])


def make_shard(record: RunRecord, lang: str, number: int, first_seq: int, texts: Sequence[Text]) -> Shard:
    return Shard(
        lang=lang,
        number=number,
        seqs=np.arange(first_seq, first_seq + len(texts), dtype=np.int32),
        text_ids=[text.text_id for text in texts],
        lengths=np.array([len(text.token_ids) for text in texts], dtype=np.int32),
        truncated=np.zeros(len(texts), dtype=bool),
        token_ids=np.concatenate([text.token_ids for text in texts]),
        experts=np.concatenate([text.experts for text in texts]).transpose(1, 2, 0),
        weights=np.concatenate([text.weights for text in texts]).transpose(1, 2, 0),
        profiles=np.stack([text.profile for text in texts], axis=1) if "profiles" in record.tables else None,
        generated=np.array([text.generated for text in texts], dtype=np.int32),
    )


def texts_of(shard: Shard, first: int, texts: int) -> Shard:
    """Return some of the texts of a shard of which no token is left out."""
    ends = np.cumsum(shard.lengths)
    tokens = slice(int(ends[first] - shard.lengths[first]), int(ends[first + texts - 1]))
    chosen = slice(first, first + texts)
    return replace(
        shard,
        seqs=shard.seqs[chosen],
        text_ids=shard.text_ids[chosen],
        lengths=shard.lengths[chosen],
        truncated=shard.truncated[chosen],
        token_ids=shard.token_ids[tokens],
        experts=shard.experts[:, :, tokens],
        weights=shard.weights[:, :, tokens],
        profiles=None if shard.profiles is None else shard.profiles[:, chosen],
        generated=None if shard.generated is None else shard.generated[chosen],
    )


def data_file(store: Path, table: str, lang: str = "deu_Latn") -> Path:
    """Return the path of a language's first file of a table."""
    return store / table / "run=run" / f"lang={lang}" / "00000.parquet"


def write_counts(path: Path, record: RunRecord, counts: Mapping[str, np.ndarray], tokens: Mapping[str, int]) -> Store:
    """Write a run of which only the counts are known, int [layers, experts] a language: what an import makes."""
    with StoreWriter(path, record) as writer:
        for lang, count in counts.items():
            writer.write_counts(Counts(lang, 0, tokens[lang], 1, count.astype(np.int64)))
    return Store(path)


def _make_text(rng: np.random.Generator, record: RunRecord, text_id: str, taste: np.ndarray) -> Text:
    length = int(rng.integers(1, 12))
    logits = taste + rng.normal(size=(length, *taste.shape))
    probability = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probability /= probability.sum(axis=-1, keepdims=True)
    experts = np.argsort(-probability, axis=-1)[..., : record.top_k]
    weights = np.take_along_axis(probability, experts, axis=-1)
    return Text(
        text_id=str(text_id),
        token_ids=rng.integers(0, 50, length).astype(np.int32),
        experts=experts.astype(expert_dtype(record.num_experts)),
        weights=(weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32),
        profile=probability.mean(axis=0).astype(np.float32),
    )

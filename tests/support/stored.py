"""A run of a store as a world of texts, read back from its Parquet files with NumPy: what references are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from tests.support.stores import Text, World

if TYPE_CHECKING:
    import pyarrow as pa

    from moetrace.store.read.reader import Store


def stored_world(store: Store, run: str) -> World:
    """Return every text of a run; profiles are zero and token ids -1 where they were not traced."""
    record = store.run(run)
    texts: dict[str, list[Text]] = {lang: [] for lang in store.languages(run)}
    files = {
        name: {(file.lang, file.shard): file.location for file in store.files(name) if file.run == run}
        for name in ("sequences", "tokens", "routes", "profiles")
    }
    layers, top_k = len(record.moe_layers), record.top_k
    for (lang, shard), path in sorted(files["sequences"].items()):
        sequences, tokens = _read(path), _read(files["tokens"][lang, shard])
        routes, total = _read(files["routes"][lang, shard]), len(tokens)
        experts, weights = (
            routes.column(name).to_numpy().reshape(layers, top_k, total).transpose(2, 0, 1)
            for name in ("expert", "weight")
        )
        seq, position = (tokens.column(name).to_numpy() for name in ("seq", "position"))
        ids = tokens.column("token_id").fill_null(-1).to_numpy()
        profiles = {}
        if files["profiles"]:
            found = _read(files["profiles"][lang, shard]).column("probability").to_numpy()
            by_text = found.reshape(layers, len(sequences), record.num_experts).transpose(1, 0, 2)
            profiles = dict(zip(sequences.column("seq").to_pylist(), by_text, strict=True))
        for number, text_id in zip(*(sequences.column(name).to_pylist() for name in ("seq", "text_id")), strict=True):
            rows = np.flatnonzero(seq == number)
            rows = rows[np.argsort(position[rows])]
            unknown = np.zeros((layers, record.num_experts), dtype=np.float32)
            texts[lang].append(Text(text_id, ids[rows], experts[rows], weights[rows], profiles.get(number, unknown)))
    return World(record, texts)


def _read(path: str) -> pa.Table:
    return pq.read_table(path, partitioning=None)

"""`usage-json`: counts and sums of gate weights, as published with 2601.14050, a file a language.

    {"<layer>": {"<expert>": {"activation_tokens": 8428, "gate_values_sum": 922.75}, ..., "total_tokens": 67455}, ...}

An expert that a layer does not name was not used. How many texts there were, nobody knows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import ImportFormatError
from moetrace.store.imports.json_parts import open_json
from moetrace.store.imports.published_counts import (
    TABLES,
    LanguageCounts,
    SparseGrid,
    member,
    number,
    numbered,
    same_layers,
    write_languages,
)
from moetrace.store.imports.record import ImportedCorpus, ImportedModel, agreed, check_grid, imported_record
from moetrace.store.imports.request import total_size
from moetrace.store.shard.counts import Counts

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.imports.json_parts import JsonPart
    from moetrace.store.imports.request import ImportRequest, ImportResult
    from moetrace.store.progress import Progress
    from moetrace.store.storage.base import Storage

TOTAL = "total_tokens"


def import_usage_json(place: str | Path | Storage, request: ImportRequest, progress: Progress) -> ImportResult:
    """Import the counts of each language: a run with roll-ups only.

    top-k is what counts and tokens say, the number of experts that of the highest id, unless `request` says more.
    Raises ImportFormatError, naming file and line or place, where a file is malformed, nothing written; StoreError as
    StoreWriter does.
    """
    sources = request.by_language()
    progress.stage("importing", total_size(sources.values()))
    read = [_read(lang, path, progress) for lang, path in sources.items()]
    first, layers = read[0], same_layers([(found.path, found.layers) for found in read])
    top_k = agreed("--top-k", request.top_k, first.top_k, first.path)
    experts = request.experts or max(found.experts for found in read)
    for found in read:
        if found.top_k != top_k:
            raise ImportFormatError(f"{found.path}: top-{found.top_k}, {first.path} top-{top_k}; a run is of one model")
        if found.experts > experts:
            raise ImportFormatError(f"{found.path}: has expert {found.experts - 1}, --experts is {experts}")
    check_grid(len(layers), experts, first.path)
    digests = "".join(f"{found.lang} {found.sha256}\n" for found in read)
    record = imported_record(
        request,
        ImportedModel(layers, experts, top_k),
        ImportedCorpus(
            hashlib.sha256(digests.encode()).hexdigest(),
            shards={found.lang: 1 for found in read},
            tokens={found.lang: found.tokens for found in read},
        ),
        {"imported": "usage-json", "tables": list(TABLES)},
    )
    languages = [LanguageCounts(found.lang, found.path, partial(found.counts, experts)) for found in read]
    return write_languages(place, request, record, languages, progress)


@dataclass(frozen=True)
class _LanguageUsage:
    """One file; `grid` has the columns count and sum of gate weights."""

    lang: str
    path: str
    sha256: str
    tokens: int
    grid: SparseGrid

    @property
    def layers(self) -> list[int]:
        return sorted(self.grid.layers)

    @property
    def experts(self) -> int:
        return self.grid.experts

    @property
    def top_k(self) -> int:
        """Return the nearest whole number of experts a token: published counts miss it a little."""
        return max(1, round(self.grid.total() / (self.tokens * len(self.grid.layers))))

    def counts(self, experts: int) -> Counts:
        count, weight_sum = self.grid.dense(experts)
        return Counts(self.lang, 0, self.tokens, 0, count.astype(np.int64), weight_sum)


def _read(lang: str, path: Path, progress: Progress) -> _LanguageUsage:
    whole, sha256 = open_json(path, progress)
    grid, totals, empty = SparseGrid(2), dict[int, int](), list[int]()
    for layer, part in numbered(whole, "layer", path):
        grid.layers.append(int(layer or 0))
        if not _read_layer(part, grid, totals, f"{path}, layer {layer}"):
            empty.append(int(layer or 0))
    first = grid.layers[0]
    for layer in sorted(totals):
        if totals[layer] != totals[first]:
            raise ImportFormatError(f"{path}, layer {layer}: {totals[layer]} tokens, layer {first} has {totals[first]}")
    if empty:
        raise ImportFormatError(f"{path}, layer {empty[0]}: no expert was used")
    return _LanguageUsage(lang, str(path), sha256, totals[first], grid)


def _read_layer(part: JsonPart, grid: SparseGrid, totals: dict[int, int], where: str) -> int:
    """Add a layer's experts and its total; return how many experts it names."""
    layer, experts = grid.layers[-1], 0
    for expert, item in numbered(part, "expert id", where, but=TOTAL):
        if expert is None:
            totals[layer] = number(item.value(), f"{where}, {TOTAL}", whole=True)
            continue
        place, numbers = f"{where}, expert {expert}", item.value()
        count = number(member(numbers, "activation_tokens", place), place, whole=True)
        grid.add(expert, count, number(member(numbers, "gate_values_sum", place), place))
        experts += 1
    if layer not in totals:
        raise ImportFormatError(f"{where}: lacks {TOTAL!r}")
    if not totals[layer]:
        raise ImportFormatError(f"{where}: no tokens were counted")
    return experts

"""`usage-json`: counts and sums of gate weights, as published with 2601.14050, a file a language.

    {"<layer>": {"<expert>": {"activation_tokens": 8428, "gate_values_sum": 922.75}, ..., "total_tokens": 67455}, ...}

An expert that a layer does not name was not used. How many texts there were, nobody knows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import ImportFormatError
from moetrace.store.imports.published_counts import (
    TABLES,
    json_object,
    member,
    number,
    numbered,
    read_json,
    same_layers,
    write_languages,
)
from moetrace.store.imports.record import ImportedCorpus, ImportedModel, agreed, imported_record
from moetrace.store.shard.counts import Counts

if TYPE_CHECKING:
    from pathlib import Path

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
    progress.stage("importing", sum(path.stat().st_size for path in sources.values()))
    read = [_read(lang, path, progress) for lang, path in sources.items()]
    first, layers = read[0], same_layers([(found.path, found.layers) for found in read])
    top_k = agreed("--top-k", request.top_k, first.top_k, first.path)
    experts = request.experts or max(found.experts for found in read)
    for found in read:
        if found.top_k != top_k:
            raise ImportFormatError(f"{found.path}: top-{found.top_k}, {first.path} top-{top_k}; a run is of one model")
        if found.experts > experts:
            raise ImportFormatError(f"{found.path}: has expert {found.experts - 1}, --experts is {experts}")
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
    counts = [(found.path, found.counts(experts)) for found in read]
    return write_languages(place, request, record, counts, progress)


@dataclass(frozen=True)
class _LanguageUsage:
    """One file: int64 and float64 [L, E], E the file's own highest expert id + 1."""

    lang: str
    path: str
    sha256: str
    layers: list[int]
    tokens: int
    count: npt.NDArray[np.int64]
    weight_sum: npt.NDArray[np.float64]

    @property
    def experts(self) -> int:
        return int(self.count.shape[1])

    @property
    def top_k(self) -> int:
        """Return the nearest whole number of experts a token: published counts miss it a little."""
        return max(1, round(int(self.count.sum()) / (self.tokens * len(self.layers))))

    def counts(self, experts: int) -> Counts:
        room = ((0, 0), (0, experts - self.experts))
        return Counts(self.lang, 0, self.tokens, 0, np.pad(self.count, room), np.pad(self.weight_sum, room))


def _read(lang: str, path: Path, progress: Progress) -> _LanguageUsage:
    value, sha256 = read_json(path, progress)
    layers = numbered(value, "layer", path)
    totals = {layer: _total(entry, f"{path}, layer {layer}") for layer, entry in layers.items()}
    first = next(iter(totals))
    for layer, total in totals.items():
        if total != totals[first]:
            raise ImportFormatError(f"{path}, layer {layer}: {total} tokens, layer {first} has {totals[first]}")
    used = {layer: _experts(entry, f"{path}, layer {layer}") for layer, entry in layers.items()}
    shape = (len(layers), 1 + max(expert for entry in used.values() for expert in entry))
    count, weight_sum = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    for index, (layer, entry) in enumerate(used.items()):
        for expert, numbers in entry.items():
            where = f"{path}, layer {layer}, expert {expert}"
            count[index, expert] = number(member(numbers, "activation_tokens", where), where, whole=True)
            weight_sum[index, expert] = number(member(numbers, "gate_values_sum", where), where)
    return _LanguageUsage(lang, str(path), sha256, list(layers), totals[first], count, weight_sum)


def _total(entry: Any, where: str) -> int:
    total: int = number(member(entry, TOTAL, where), f"{where}, {TOTAL}", whole=True)
    if not total:
        raise ImportFormatError(f"{where}: no tokens were counted")
    return total


def _experts(entry: Any, where: str) -> dict[int, Any]:
    return numbered({key: item for key, item in json_object(entry, where).items() if key != TOTAL}, "expert id", where)

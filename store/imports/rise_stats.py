"""`rise-stats`: the routing_stats.json of RISE (2604.03592), activation frequencies of many languages in one file.

    {"model_config": {"model_path", "model_type", "num_layers", "num_experts_per_layer", "num_experts_per_tok"},
     "languages": {"<lang>": {"<layer>": {"<expert>": a}}}}

a = count / T, so that a layer's sum to k. T is not in the file: counts are those of NOMINAL_TOKENS tokens, and the run
record says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.store.errors import ImportFormatError, StoreError, UnknownNameError
from moetrace.store.format.layout import checked_language
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
from moetrace.store.imports.record import UNKNOWN_MODEL, ImportedCorpus, ImportedModel, agreed, imported_record
from moetrace.store.shard.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moetrace.store.imports.request import ImportRequest, ImportResult
    from moetrace.store.progress import Progress
    from moetrace.store.storage.base import Storage

NOMINAL_TOKENS = 10**9
TOLERANCE = 1e-3  # of a layer's sum of frequencies


def import_rise_stats(place: str | Path | Storage, request: ImportRequest, progress: Progress) -> ImportResult:
    """Import the frequencies of some languages of a file, or of all: a run with roll-ups only.

    Raises ImportFormatError, naming file and line or place, where a file is malformed, nothing written;
    UnknownNameError for a language that a file does not have; StoreError as StoreWriter does.
    """
    paths = dict.fromkeys(source.path for source in request.sources)
    progress.stage("importing", sum(path.stat().st_size for path in paths))
    files = {path: _read(path, request, progress) for path in paths}
    first = next(iter(files.values()))
    for path, file in files.items():
        if file.model != first.model:
            raise ImportFormatError(f"{path}: its model_config is not that of {first.path}; a run is of one model")
    chosen = _chosen(request, files)
    frequencies = {
        lang: numbered(member(file.languages, lang, file.path), "layer", f"{file.path}, {lang}")
        for lang, file in chosen.items()
    }
    layers = same_layers([(f"{chosen[lang].path}, {lang}", list(found)) for lang, found in frequencies.items()])
    model = first.model
    if model.num_layers is not None and max(layers) >= model.num_layers:
        raise ImportFormatError(f"{first.path}: has layer {max(layers)}, model_config says {model.num_layers} layers")
    digests = "".join(f"{lang} {file.sha256}\n" for lang, file in chosen.items())
    record = imported_record(
        request,
        replace(model, moe_layers=layers),
        ImportedCorpus(hashlib.sha256(digests.encode()).hexdigest(), shards=dict.fromkeys(chosen, 1)),
        {"imported": "rise-stats", "tokens": "nominal", "tables": list(TABLES)},
    )
    counts = []
    for lang, found in frequencies.items():
        where = f"{chosen[lang].path}, {lang}"
        counts.append((where, Counts(lang, 0, NOMINAL_TOKENS, 0, _nominal_counts(found, model, where))))
    return write_languages(place, request, record, counts, progress)


@dataclass(frozen=True)
class _StatsFile:
    """One file; `model` is without MoE layers, which the languages name."""

    path: Path
    sha256: str
    model: ImportedModel
    languages: dict[str, Any]


def _read(path: Path, request: ImportRequest, progress: Progress) -> _StatsFile:
    value, sha256 = read_json(path, progress)
    where = f"{path}, model_config"
    config = json_object(member(value, "model_config", path), where)
    sizes = {
        name: number(config[name], f"{where}, {name}", whole=True)
        for name in ("num_layers", "num_experts_per_layer", "num_experts_per_tok")
        if config.get(name) is not None
    }
    model = ImportedModel(
        (),
        agreed("--experts", request.experts, sizes.get("num_experts_per_layer"), f"{where}, num_experts_per_layer"),
        agreed("--top-k", request.top_k, sizes.get("num_experts_per_tok"), f"{where}, num_experts_per_tok"),
        _model_id(config.get("model_path")),
        config.get("model_type"),
        sizes.get("num_layers"),
    )
    return _StatsFile(path, sha256, model, json_object(member(value, "languages", path), f"{path}, languages"))


def _model_id(path: object) -> str:
    """Return the hub id, or the name of a local folder: where the folder lay is not what the model is."""
    if not isinstance(path, str) or not path:
        return UNKNOWN_MODEL
    return PurePath(path).name if PurePath(path).is_absolute() else path


def _chosen(request: ImportRequest, files: Mapping[Path, _StatsFile]) -> dict[str, _StatsFile]:
    """Return the languages to import, sorted, and the file that has each."""
    chosen: dict[str, _StatsFile] = {}
    for source in request.sources:
        file = files[source.path]
        for lang in file.languages if source.lang is None else [source.lang]:
            if lang not in file.languages:
                raise UnknownNameError.among("language", lang, file.languages, str(file.path))
            if lang in chosen:
                raise StoreError(
                    f"{lang}: stands in {chosen[lang].path} and in {file.path}; say which with {lang}=PATH"
                )
            chosen[checked_language(lang)] = file
    return dict(sorted(chosen.items()))


def _nominal_counts(layers: Mapping[int, Any], model: ImportedModel, where: str) -> npt.NDArray[np.int64]:
    """Return int64 [L, E]: what the frequencies are of NOMINAL_TOKENS tokens."""
    found = np.zeros((len(layers), model.num_experts))
    for index, (layer, entry) in enumerate(layers.items()):
        place = f"{where}, layer {layer}"
        for expert, value in numbered(entry, "expert id", place).items():
            frequency = number(value, f"{place}, expert {expert}")
            if expert >= model.num_experts or frequency > 1:
                raise ImportFormatError(
                    f"{place}, expert {expert}: {frequency} is no frequency of one of {model.num_experts} experts"
                )
            found[index, expert] = frequency
        total = float(found[index].sum())
        if abs(total - model.top_k) > TOLERANCE:
            raise ImportFormatError(f"{place}: frequencies sum to {total:.6g}, not to top-k, which is {model.top_k}")
    return np.rint(found * NOMINAL_TOKENS).astype(np.int64)

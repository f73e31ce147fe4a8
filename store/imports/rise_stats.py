"""`rise-stats`: the routing_stats.json of RISE (2604.03592), activation frequencies of many languages in one file.

    {"model_config": {"model_path", "model_type", "num_layers", "num_experts_per_layer", "num_experts_per_tok"},
     "languages": {"<lang>": {"<layer>": {"<expert>": a}}}}

a = count / T, so that a layer's sum to k. T is not in the file: counts are those of NOMINAL_TOKENS tokens, and the run
record says so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.store.errors import ImportFormatError, StoreError, UnknownNameError
from moetrace.store.format.layout import checked_language
from moetrace.store.imports.json_parts import open_json
from moetrace.store.imports.published_counts import (
    MOST_LANGUAGES,
    TABLES,
    LanguageCounts,
    SparseGrid,
    item_number,
    json_object,
    number,
    numbered,
    same_layers,
    write_languages,
)
from moetrace.store.imports.quoting import quoted
from moetrace.store.imports.record import (
    LONGEST_NAME,
    MOST_EXPERTS,
    UNKNOWN_MODEL,
    ImportedCorpus,
    ImportedModel,
    agreed,
    check_grid,
    checked_name,
    imported_record,
)
from moetrace.store.imports.request import total_size
from moetrace.store.shard.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moetrace.store.imports.json_parts import JsonPart
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
    progress.stage("importing", total_size(paths))
    files = {path: _read(path, request, progress) for path in paths}
    first = next(iter(files.values()))
    for path, file in files.items():
        if file.model != first.model:
            raise ImportFormatError(f"{path}: its model_config is not that of {first.path}; a run is of one model")
    chosen = _chosen(request, files)
    grids = {lang: _frequencies(file, lang) for lang, file in chosen.items()}
    layers = same_layers([(f"{chosen[lang].path}, {lang}", sorted(found.layers)) for lang, found in grids.items()])
    model = first.model
    if model.num_layers is not None and max(layers) >= model.num_layers:
        raise ImportFormatError(f"{first.path}: has layer {max(layers)}, model_config says {model.num_layers} layers")
    check_grid(len(layers), model.num_experts, first.path)
    digests = "".join(f"{lang} {file.sha256}\n" for lang, file in chosen.items())
    record = imported_record(
        request,
        replace(model, moe_layers=layers),
        ImportedCorpus(hashlib.sha256(digests.encode()).hexdigest(), shards=dict.fromkeys(chosen, 1)),
        {"imported": "rise-stats", "tokens": "nominal", "tables": list(TABLES)},
    )
    languages = []
    for lang, found in grids.items():
        where = f"{chosen[lang].path}, {lang}"
        languages.append(LanguageCounts(lang, where, partial(_nominal_counts, lang, found, model, where)))
    return write_languages(place, request, record, languages, progress)


@dataclass(frozen=True)
class _StatsFile:
    """One file; `model` is without MoE layers, which the languages name."""

    path: Path
    sha256: str
    model: ImportedModel
    languages: dict[str, JsonPart]


def _read(path: Path, request: ImportRequest, progress: Progress) -> _StatsFile:
    whole, sha256 = open_json(path, progress)
    parts = dict(whole.members(path))
    for name in ("model_config", "languages"):
        if name not in parts:
            raise ImportFormatError(f"{path}: lacks {name!r}, which a file of RISE's statistics has")
    model = _model(parts["model_config"].value(), request, f"{path}, model_config")
    languages: dict[str, JsonPart] = {}
    for lang, part in parts["languages"].members(f"{path}, languages"):
        try:
            languages[checked_language(lang)] = part
        except StoreError as error:
            raise ImportFormatError(f"{path}, languages: {quoted(lang)} is no language code ({error})") from error
        if len(languages) > MOST_LANGUAGES:
            raise ImportFormatError(f"{path}, languages: more than {MOST_LANGUAGES:,} languages")
    return _StatsFile(path, sha256, model, languages)


def _model(value: Any, request: ImportRequest, where: str) -> ImportedModel:
    config = json_object(value, where)
    sizes = {
        name: number(config[name], f"{where}, {name}", whole=True, most=MOST_EXPERTS)
        for name in ("num_layers", "num_experts_per_layer", "num_experts_per_tok")
        if config.get(name) is not None
    }
    return ImportedModel(
        (),
        agreed("--experts", request.experts, sizes.get("num_experts_per_layer"), f"{where}, num_experts_per_layer"),
        agreed("--top-k", request.top_k, sizes.get("num_experts_per_tok"), f"{where}, num_experts_per_tok"),
        _model_id(config.get("model_path"), f"{where}, model_path"),
        checked_name(config.get("model_type"), f"{where}, model_type"),
        sizes.get("num_layers"),
    )


def _model_id(path: object, where: str) -> str:
    """Return the hub id, or the name of a local folder: where the folder lay is not what the model is."""
    if not isinstance(path, str) or not path:
        return UNKNOWN_MODEL
    name = PurePath(path).name if PurePath(path).is_absolute() else path
    return checked_name(name[: LONGEST_NAME + 1], where) or UNKNOWN_MODEL


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
            chosen[lang] = file
    return dict(sorted(chosen.items()))


def _frequencies(file: _StatsFile, lang: str) -> SparseGrid:
    """Return a language's frequencies, the one column of its grid."""
    where, experts, grid = f"{file.path}, {lang}", file.model.num_experts, SparseGrid(1)
    for layer, part in numbered(file.languages[lang], "layer", where):
        place = f"{where}, layer {layer}"
        grid.layers.append(int(layer or 0))
        for name, value in json_object(part.value(), place).items():
            expert = item_number(name, "expert id", place)
            frequency = number(value, f"{place}, expert {expert}")
            if expert >= experts or frequency > 1:
                raise ImportFormatError(
                    f"{place}, expert {expert}: {frequency} is no frequency of one of {experts} experts"
                )
            grid.add(expert, frequency)
    return grid


def _nominal_counts(lang: str, grid: SparseGrid, model: ImportedModel, where: str) -> Counts:
    """Return what the frequencies are of NOMINAL_TOKENS tokens."""
    (found,) = grid.dense(model.num_experts)
    for layer, total in zip(sorted(grid.layers), found.sum(axis=1), strict=True):
        if abs(total - model.top_k) > TOLERANCE:
            raise ImportFormatError(
                f"{where}, layer {layer}: frequencies sum to {total:.6g}, not to top-k, which is {model.top_k}"
            )
    found *= NOMINAL_TOKENS
    return Counts(lang, 0, NOMINAL_TOKENS, 0, np.rint(found, out=found).astype(np.int64))

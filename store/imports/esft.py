"""`esft`: the router traces published with ESFT (2407.01906), every decision of every layer.

A task is a folder of `expert_weights_<layer>.txt`. A line is a sequence: k expert ids a token, tokens in order,
tab-separated; two tabs; the gate weights, aligned, rounded to 4 decimals and not renormalised. Token ids are unknown.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from moetrace.store.errors import CaptureError, ImportFormatError
from moetrace.store.format.expert_ids import expert_dtype
from moetrace.store.format.layout import shard_key
from moetrace.store.imports.layer_files import LayerFile, LayersInStep, layer_files, stamps, survey
from moetrace.store.imports.quoting import shortened
from moetrace.store.imports.record import ImportedCorpus, ImportedModel, check_grid, imported_record
from moetrace.store.imports.request import ImportResult
from moetrace.store.shard.shard import Shard, check_layer
from moetrace.store.write.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from moetrace.store.format.records import RunRecord
    from moetrace.store.imports.request import ImportRequest
    from moetrace.store.progress import Progress
    from moetrace.store.storage.base import Storage

TOP_K, EXPERTS = 6, 64  # of DeepSeek-V2-Lite, which ESFT traced
ROUTING = {"scoring": "softmax", "normalized": False, "scale": 1.0, "selection_bias": False}
MOST_TOKENS = 1 << 19  # of one sequence
MOST_BINS = 1 << 21  # experts x different lengths of a shard's sequences, by which decisions are counted
MOST_TOP_K = 255  # ranks that a store has
MOST_WEIGHT = 2.0**16  # sums of greater ones are no longer exact
TABLES = ("sequences", "tokens", "routes", "usage")

Files = tuple[LayerFile, ...]


def import_esft(place: str | Path | Storage, request: ImportRequest, progress: Progress) -> ImportResult:
    """Import one task of each language; shards that the store has are not parsed again.

    In memory are the shard under way, and the size of every shard. Raises ImportFormatError, naming file and line,
    where a file is malformed (shards committed before stay), and StoreError as StoreWriter does.
    """
    with ExitStack() as opened:
        sources = request.by_language()
        tasks = {lang: opened.enter_context(layer_files(path, progress)) for lang, path in sources.items()}
        layers = _same_layers(tasks)
        top_k, experts = request.top_k or TOP_K, request.experts or EXPERTS
        if top_k > MOST_TOP_K:
            raise ImportFormatError(f"--top-k {top_k}: a token has at most {MOST_TOP_K} experts")
        check_grid(len(layers), experts, next(iter(sources.values())))
        size = sum(file.bytes for files in tasks.values() for file in files)
        progress.stage("checking", size)
        cut = _Cut(top_k, request.shard_tokens, MOST_BINS // experts)
        plans = {lang: _plan(files, cut, progress) for lang, files in tasks.items()}
        model = ImportedModel(layers, experts, top_k, routing=ROUTING)
        record = imported_record(request, model, _corpus(plans), _settings(request))
        progress.stage("importing", size)
        with StoreWriter(place, record) as writer:
            written = [
                count for lang, plan in plans.items() for count in _write(writer, lang, tasks[lang], plan, progress)
            ]
            planned = [shard_key(lang, shard.number) for lang, plan in plans.items() for shard in plan.shards]
            return ImportResult.of(request.run, len(tasks), planned, written, writer.committed())


def parse_line(line: bytes, record: RunRecord, where: str) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """Return the experts and gate weights of a sequence at one layer, each [k, tokens].

    Raises ImportFormatError, beginning with `where`, for anything else than that.
    """
    tokens = _tokens(line, record.top_k, where)
    ids, _, weights = line.rstrip(b"\r\n").partition(b"\t\t")
    experts = _numbers(ids, pa.uint16(), f"{where}: an expert id")
    gates = _numbers(weights, pa.float32(), f"{where}: a gate weight")
    if len(experts) != len(gates):
        raise ImportFormatError(f"{where}: {len(experts)} expert ids, but {len(gates)} gate weights")
    if np.any((gates > MOST_WEIGHT) & np.isfinite(gates)):
        raise ImportFormatError(f"{where}: a gate weight is more than {MOST_WEIGHT:,.0f}")
    shape = (tokens, record.top_k)
    experts, gates = np.ascontiguousarray(experts.reshape(shape).T), np.ascontiguousarray(gates.reshape(shape).T)
    try:
        check_layer(experts, gates, record, where)
    except CaptureError as error:
        raise ImportFormatError(str(error)) from error
    return experts, gates


@dataclass(frozen=True)
class _ShardLines:
    """Where a shard stands in every layer file of its language; `first` counts lines from 0."""

    number: int
    first: int
    lines: int
    tokens: int


@dataclass(frozen=True)
class _Plan:
    """The shards of one language, the SHA-256 of its files, and how they were then."""

    sha256: str
    shards: Sequence[_ShardLines]
    stamps: Sequence[tuple[int, int, int]]


def _same_layers(tasks: Mapping[str, Files]) -> list[int]:
    layers = {lang: [file.layer for file in files] for lang, files in tasks.items()}
    first, expected = next(iter(layers.items()))
    for lang, found in layers.items():
        if found != expected:
            raise ImportFormatError(
                f"{tasks[lang][0].name}: {lang} has layers {shortened(str(found))}, "
                f"{first} has {shortened(str(expected))}; a run is of one model"
            )
    return expected


@dataclass(frozen=True)
class _Cut:
    """How a language is cut into shards; `lengths`: how many different ones its sequences may have."""

    top_k: int
    shard_tokens: int
    lengths: int


def _plan(files: Files, cut: _Cut, progress: Progress) -> _Plan:
    """Cut a language into shards of at most `cut.shard_tokens` tokens, one sequence at least."""
    shards: list[_ShardLines] = []
    first = lines = tokens = 0
    lengths = set[int]()

    def add(line: bytes, number: int) -> None:
        nonlocal first, lines, tokens
        length = _tokens(line, cut.top_k, f"{files[0].name}, line {number}")
        lengths.add(length)
        if lines and (tokens + length > cut.shard_tokens or len(lengths) > cut.lengths):
            shards.append(_ShardLines(len(shards), first, lines, tokens))
            first, lines, tokens = first + lines, 0, 0
            lengths.clear()
            lengths.add(length)
        lines, tokens = lines + 1, tokens + length

    before = stamps(files)
    sha256 = survey(files, add, progress)
    return _Plan(sha256, (*shards, _ShardLines(len(shards), first, lines, tokens)), before)


def _corpus(plans: Mapping[str, _Plan]) -> ImportedCorpus:
    digests = "".join(f"{lang} {plan.sha256}\n" for lang, plan in plans.items())
    return ImportedCorpus(
        hashlib.sha256(digests.encode()).hexdigest(),
        shards={lang: len(plan.shards) for lang, plan in plans.items()},
        texts={lang: sum(shard.lines for shard in plan.shards) for lang, plan in plans.items()},
        tokens={lang: sum(shard.tokens for shard in plan.shards) for lang, plan in plans.items()},
        numbered=True,
    )


def _settings(request: ImportRequest) -> dict[str, object]:
    return {
        "imported": "esft",
        "shard_tokens": request.shard_tokens,
        "weight_precision": request.weight_precision,
        "tables": list(TABLES),
    }


def _write(writer: StoreWriter, lang: str, files: Files, plan: _Plan, progress: Progress) -> Iterator[int]:
    """Write the shards that the store lacks and nobody else is doing; yield the tokens of each."""
    with LayersInStep(files, progress) as layers:
        for shard in plan.shards:
            if writer.claim(lang, shard.number):
                read = _read_shard(lang, shard, layers, writer.record)
                if read.tokens != shard.tokens or stamps(files) != plan.stamps:
                    raise ImportFormatError(f"{files[0].name}: was changed while it was read; import it again")
                progress.committed(writer.write(read))
                yield shard.tokens
            else:
                layers.skip(shard.lines)


def _read_shard(lang: str, shard: _ShardLines, layers: LayersInStep, record: RunRecord) -> Shard:
    experts, weights = [], []
    for number in range(shard.first + 1, shard.first + shard.lines + 1):
        line_experts, line_weights = _read_sequence(layers, record, number)
        experts.append(line_experts)
        weights.append(line_weights)
    return Shard(
        lang=lang,
        number=shard.number,
        seqs=np.arange(shard.first, shard.first + shard.lines, dtype=np.int32),
        text_ids=[str(number) for number in range(shard.first + 1, shard.first + shard.lines + 1)],
        lengths=np.array([part.shape[2] for part in experts], dtype=np.int32),
        truncated=np.zeros(shard.lines, dtype=bool),
        token_ids=None,
        experts=np.concatenate(experts, axis=2),
        weights=np.concatenate(weights, axis=2),
        profiles=None,
    )


def _read_sequence(
    layers: LayersInStep, record: RunRecord, number: int
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.float32]]:
    """Return the experts and gate weights of the next line of every layer, each [L, k, tokens]."""
    kind = expert_dtype(record.num_experts)
    experts: list[npt.NDArray[np.unsignedinteger]] = []
    weights: list[npt.NDArray[np.float32]] = []
    for file, line in layers.next_lines():
        where = f"{file.name}, line {number}"
        ids, gates = parse_line(line, record, where)
        if experts and ids.shape != experts[0].shape:
            raise ImportFormatError(
                f"{where}: {ids.shape[1]} tokens, but {experts[0].shape[1]} in the same line of {layers.files[0].name}"
            )
        experts.append(ids.astype(kind))
        weights.append(gates)
    return np.stack(experts), np.stack(weights)


def _tokens(line: bytes, top_k: int, where: str) -> int:
    """Return the number of tokens of a line."""
    ids, tabs, _ = line.partition(b"\t\t")
    if not tabs:
        raise ImportFormatError(f"{where}: no two tabs; a line is a sequence: expert ids, two tabs, gate weights")
    count = ids.count(b"\t") + 1
    if count % top_k:
        raise ImportFormatError(
            f"{where}: {count} expert ids are not {top_k} for each token; say how many a token has with --top-k"
        )
    if count > MOST_TOKENS * top_k:
        raise ImportFormatError(f"{where}: a sequence of more than {MOST_TOKENS:,} tokens")
    return count // top_k


def _numbers(fields: bytes, kind: pa.DataType, what: str) -> npt.NDArray[Any]:
    try:
        split = pc.split_pattern(pa.scalar(fields.decode("ascii"), pa.string()), "\t").values
        numbers: npt.NDArray[Any] = split.cast(kind).to_numpy()
    except ValueError as error:  # Arrow's own are ValueErrors
        raise ImportFormatError(f"{what} is not one ({shortened(str(error).splitlines()[0])})") from error
    return numbers

"""The run record of what another tool traced: what its files say, and null for what nobody knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import ImportFormatError
from moetrace.store.format.run_record import made_elsewhere, make_run_record
from moetrace.store.imports.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.store.format.records import RunRecord
    from moetrace.store.imports.request import ImportRequest

UNKNOWN_MODEL = "unknown"
MOST_CELLS = 1 << 19  # experts of all layers: sixteen times those of the largest models there are
MOST_EXPERTS = 1 << 16
LONGEST_NAME = 256  # of what a file calls its model
UNKNOWN_ROUTING = {"scoring": None, "normalized": None, "scale": None, "selection_bias": None}


@dataclass(frozen=True)
class ImportedModel:
    """What is known of a model of which only a trace is there."""

    moe_layers: Sequence[int]
    num_experts: int
    top_k: int
    id: str = UNKNOWN_MODEL
    family: str | None = None
    num_layers: int | None = None
    routing: Mapping[str, Any] = field(default_factory=lambda: UNKNOWN_ROUTING)


@dataclass(frozen=True)
class ImportedCorpus:
    """What is known of the texts: digest of the files, languages sorted, and per language what can be counted.

    - shards: of each language; texts, tokens: of each language, empty where nobody knows
    - numbered: text ids are the numbers of lines, so that the same one in two languages says nothing
    """

    sha256: str
    shards: Mapping[str, int]
    texts: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    numbered: bool = False


def imported_record(
    request: ImportRequest, model: ImportedModel, corpus: ImportedCorpus, settings: Mapping[str, Any]
) -> RunRecord:
    """Return the run record of an import; where the files lay is provenance, and nothing else of the record."""
    languages = sorted(corpus.shards)
    return make_run_record(
        request.run,
        model={
            "id": request.model_id or model.id,
            "revision": None,
            "config_sha256": None,
            "family": model.family,
            "moe_layers": list(model.moe_layers),
            "num_layers": model.num_layers,
            "num_experts": model.num_experts,
            "top_k": model.top_k,
            "dtype": None,
            "tokenizer_sha256": None,
        },
        routing=model.routing,
        corpus={
            "sha256": corpus.sha256,
            "languages": languages,
            "pivot": _pivot(languages),
            **({"parallel": False} if corpus.numbered else {}),
            "texts": dict(corpus.texts),
            "tokens": dict(corpus.tokens),
            "shards": dict(corpus.shards),
        },
        settings=settings,
        provenance=made_elsewhere([str(source.path) for source in request.sources]),
    )


def agreed(option: str, asked: int | None, said: int | None, where: object) -> int:
    """Return what a person asked for or a file says; raise ImportFormatError where they differ or both are silent."""
    known = said if asked is None else asked
    if known is None:
        raise ImportFormatError(f"{where}: does not say it; pass {option}")
    if said is not None and known != said:
        raise ImportFormatError(f"{where}: says {said}, {option} says {known}")
    return known


def check_grid(layers: int, experts: int, where: object) -> None:
    """Raise ImportFormatError where a model would have more layers and experts than any: ids are told, not counted.

    What holds a number for each expert of each layer takes memory by the highest id that a file says.
    """
    if not 1 <= experts <= MOST_EXPERTS:
        raise ImportFormatError(f"{where}: a layer of {quoted(experts)} experts; 1 to {MOST_EXPERTS:,} are possible")
    if layers * experts > MOST_CELLS:
        raise ImportFormatError(
            f"{where}: {layers:,} layers of {experts:,} experts are more than {MOST_CELLS:,} experts of one model"
        )


def checked_name(value: object, where: object) -> str | None:
    """Return a name that a file says, or None; raise ImportFormatError where it is not a short text of one line."""
    if value is None or (isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_NAME):
        return value
    raise ImportFormatError(f"{where}: {quoted(value)} is no name of at most {LONGEST_NAME} printable characters")


def _pivot(languages: Sequence[str]) -> str | None:
    english = [lang for lang in languages if lang.startswith("en")]
    return english[0] if len(english) == 1 else None

"""What may stand in each record of a store: types, ranges, names. What one says of another is checked by readers.

Each class is a JSON object; a member that it does not name is refused, save in the parts of a run record, which grow.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.format.blocks import BLOCK

MOST = 2**53  # that float64 still counts
MOST_EXPERTS = 1 << 16  # of a layer
MOST_LAYERS = 1 << 12
MOST_POOL = 1 << 22  # experts of all layers: a hundred times those of the largest models
FIRST_YEAR, LAST_YEAR = 1970, 9998  # of which every zone's time is one of DuckDB's and Python's


def _language(name: str) -> str:
    return _as_value_error(layout.checked_language, name)


def _run(name: str) -> str:
    return _as_value_error(layout.checked_run, name)


def _as_value_error(check: Any, name: str) -> str:
    try:
        checked: str = check(name)
    except StoreError as error:
        raise ValueError(str(error).removesuffix("; rename it")) from error
    return checked


def _time(text: str) -> str:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise ValueError(f"{text!r} is no time with a zone, from {FIRST_YEAR} to {LAST_YEAR}")
    return text


def _ascending(layers: list[int]) -> list[int]:
    if any(later <= earlier for earlier, later in pairwise(layers)):
        raise ValueError("layers do not ascend")
    return layers


def _once_each(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name stands twice")
    return names


Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Text = Annotated[str, Field(max_length=4096)]
Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
Language = Annotated[str, AfterValidator(_language)]
Run = Annotated[str, AfterValidator(_run)]
Time = Annotated[str, Field(max_length=64), AfterValidator(_time)]
Layer = Annotated[int, Field(ge=0, lt=1 << 16)]
Layers = Annotated[
    list[Layer],
    Field(min_length=1, max_length=MOST_LAYERS),
    AfterValidator(_ascending),
]
TableName = Literal["routes", "tokens", "sequences", "profiles", "usage"]


class _Closed(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class _Open(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, defer_build=True)


class Model(_Open):
    """The `model` of a run record."""

    id: Text
    revision: Text | None = None
    config_sha256: Text | None = None
    family: Text | None = None
    moe_layers: Layers
    num_layers: Annotated[int, Field(ge=1, le=MOST_EXPERTS)] | None = None
    num_experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    top_k: Positive
    parameters_per_expert: Count | None = None
    parameters: Count | None = None
    dtype: Text | None = None
    tokenizer_sha256: Text | None = None
    special_token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=1 << 16)] | None = None

    @model_validator(mode="after")
    def _top_k_of_experts(self) -> Model:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k is {self.top_k}, a layer has {self.num_experts} experts")
        if len(self.moe_layers) * self.num_experts > MOST_POOL:
            raise ValueError(f"{len(self.moe_layers)} layers of {self.num_experts} experts are more than {MOST_POOL}")
        return self


class Routing(_Open):
    """The `routing` of a run record."""

    scoring: Text | None = None
    normalized: bool | None = None
    scale: float | None = None
    selection_bias: bool | None = None


class Corpus(_Open):
    """The `corpus` of a run record."""

    sha256: Text | None = None
    languages: Annotated[list[Language], AfterValidator(_once_each)]
    pivot: Language | None = None
    parallel: bool | None = None
    texts: dict[Language, Count] = {}
    tokens: dict[Language, Count] = {}
    shards: dict[Language, Count] = {}


class Settings(_Open):
    """The `settings` of a run record."""

    tables: Annotated[list[TableName], Field(min_length=1), AfterValidator(_once_each)]
    weight_precision: Literal["f16", "bf16", "f32"] | None = None
    weight_precision_exact: bool = False
    tokens: Literal["nominal"] | None = None
    imported: Text | None = None
    prompt_only: bool = False
    skip_positions: Count = 0
    skip_special: bool = False


class RunSchema(_Closed):
    """A run record."""

    run: Run
    model: Model
    routing: Routing
    corpus: Corpus
    settings: Settings
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _rule_of_routes(self) -> RunSchema:
        if "routes" in self.settings.tables and None in {self.routing.scale, self.routing.normalized}:
            raise ValueError("routing has no scale and normalized, which a run with routes has")
        return self


class FileSchema(_Closed):
    """One data file, as a commit record and a compact index name it."""

    path: Annotated[str, Field(max_length=512)]
    table: Literal["routes", "tokens", "sequences", "profiles", "usage", "rollups"]
    rows: Count
    bytes: Count
    sha256: Digest
    crc32: Annotated[str, Field(pattern=r"\A([0-9a-f]{8})*\z")] | None = None

    @model_validator(mode="after")
    def _whole(self) -> FileSchema:
        blocks = -(-self.bytes // BLOCK)
        if self.crc32 is not None and len(self.crc32) != 8 * blocks:
            raise ValueError(f"{self.bytes} bytes have {blocks} checksums, crc32 has {len(self.crc32) / 8:g}")
        return self


class CommitSchema(_Closed):
    """A commit record."""

    run: Run
    lang: Language
    shard: Annotated[int, Field(ge=0, lt=10**9)]
    run_sha256: Digest
    sequences: Count
    tokens: Count
    files: Annotated[list[FileSchema], Field(min_length=1, max_length=len(layout.TABLE_NAMES))]
    created: Time
    version: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _paths(self) -> CommitSchema:
        for number, file in enumerate(self.files):
            place = layout.place_of(file.path)
            if place != layout.Place(file.table, self.run, self.lang, self.shard) or not file.path.endswith(".parquet"):
                raise ValueError(f"files.{number}.path is {file.path!r}, no {file.table} of this shard")
        _once_each([file.table for file in self.files])
        return self


class ClaimSchema(_Closed):
    """A claim on a shard."""

    machine: Text
    process: Annotated[int, Field(ge=0, le=MOST)]
    started: Text | None
    id: Text
    run_sha256: Digest
    renewed: float


class IndexEntrySchema(_Closed):
    """A commit record as a compact index keeps it."""

    bytes: Count
    stamp: Text
    record: CommitSchema


class IndexSchema(_Closed):
    """The index of a run's compacted roll-ups."""

    version: int
    run: Run
    run_sha256: Digest
    data: FileSchema
    entries: dict[str, IndexEntrySchema]


class PlannedShardSchema(_Closed):
    """One shard of a plan."""

    sequences: Count
    tokens: Count


class PlanSchema(_Closed):
    """A plan: how the corpus of a run is cut into shards, those of each language by their numbers from 0."""

    run: Run
    run_sha256: Digest
    shards: dict[Language, list[PlannedShardSchema]]


class FailedTextSchema(_Closed):
    """A text that was set aside."""

    seq: Count
    text_id: Text
    reason: Text


class FailedSchema(_Closed):
    """The texts of a shard that were set aside."""

    run: Run
    lang: Language
    shard: Annotated[int, Field(ge=0, lt=10**9)]
    run_sha256: Digest
    texts: list[FailedTextSchema]


class PartSchema(_Closed):
    """Consecutive texts of a shard that are traced by themselves."""

    first: Count
    texts: Positive
    deaths: Count
    reason: Text | None


class AttemptsSchema(_Closed):
    """What is known of a shard under which processes died or engines failed."""

    run: Run
    lang: Language
    shard: Annotated[int, Field(ge=0, lt=10**9)]
    run_sha256: Digest
    deaths: Count
    parts: Annotated[list[PartSchema], Field(min_length=1)]
    trying: Count | None

    @model_validator(mode="after")
    def _parts_of_a_shard(self) -> AttemptsSchema:
        end = 0
        for number, part in enumerate(self.parts):
            if part.first != end:
                raise ValueError(f"parts.{number}.first is {part.first}, the part before ends at {end}")
            if part.reason is not None and part.texts > 1:
                raise ValueError(f"parts.{number}.reason is of {part.texts} texts, only one is set aside at a time")
            end += part.texts
        if self.trying is not None and self.trying >= len(self.parts):
            raise ValueError(f"trying is {self.trying}, there are {len(self.parts)} parts")
        return self


class FormatSchema(_Closed):
    """store.json."""

    format: Literal["moetrace-store"]
    version: Annotated[int, Field(ge=1)]
    upgraded_from: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _upgraded(self) -> FormatSchema:
        if self.upgraded_from is not None and self.upgraded_from > self.version:
            raise ValueError(f"upgraded_from is {self.upgraded_from}, version is {self.version}")
        return self


def check_record(schema: type[BaseModel], found: Any, where: str) -> None:
    """Raise StoreError, naming `where` and the field, for what is not a record of `schema`."""
    try:
        schema.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise StoreError(f"{where}: the record is damaged ({field + ': ' if field else ''}{said})") from error

"""The records a store is read by: the run record and the commit records, as JSON that proves itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from moetrace.store.errors import RunMismatchError, StoreError
from moetrace.store.format.layout import shard_key
from moetrace.store.format.record_schemas import CommitSchema, RunSchema, check_record
from moetrace.store.format.sealed import read_sealed, sealed_text

MOST_TOKENS = 1 << 26  # of a shard: who checks one reads it whole


@dataclass(frozen=True)
class RunRecord:
    """What a run is: one model, traced over one corpus with one choice of settings.

    Everything but `provenance` identifies the run: resuming with a record that differs there is refused.

    - model: id, revision, config_sha256, family, moe_layers, num_layers, num_experts, top_k, dtype, tokenizer_sha256,
      and, where known, parameters_per_expert and parameters (of the whole model) and special_token_ids
    - routing: scoring (softmax | sigmoid), normalized (the weights of a token sum to `scale`), scale,
      selection_bias (selection uses a bias that weights do not carry); null in a run without `routes`: unknown
    - corpus: sha256, languages, pivot, and texts, tokens and shards of each language; parallel: whether the
      same text id in two languages means the same text; where that is not said, it does in a trace, not in an import
    - settings: what else decides the numbers (max_model_len, shard_tokens, weight_precision, tables, engine, ...);
      where tokens are left out of every table, prompt_only (those that the model generated), skip_positions (those
      below that position of their text), skip_special (special_token_ids);
      of an import, `imported`: the format, and `tokens`: "nominal" where only activation frequencies are known
    - provenance: where and when it was made; not compared
    """

    run: str
    model: dict[str, Any]
    routing: dict[str, Any]
    corpus: dict[str, Any]
    settings: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def moe_layers(self) -> list[int]:
        """Return the decoder indices of the MoE layers, ascending."""
        return list(self.model["moe_layers"])

    @property
    def num_experts(self) -> int:
        """Return the number of routed experts of a layer."""
        return int(self.model["num_experts"])

    @property
    def top_k(self) -> int:
        """Return the number of experts a token is sent to."""
        return int(self.model["top_k"])

    @property
    def tables(self) -> list[str]:
        """Return the names of the tables the run has."""
        return list(self.settings["tables"])

    @property
    def nominal_tokens(self) -> bool:
        """Return whether T is nominal: only activation frequencies are known, and counts stand for so many tokens."""
        return self.settings.get("tokens") == "nominal"

    @property
    def leaves_out_tokens(self) -> bool:
        """Return whether tokens of the texts are left out of every table."""
        return any(self.settings.get(name) for name in ("prompt_only", "skip_positions", "skip_special"))

    @property
    def parallel(self) -> bool:
        """Return whether the same text id in two languages means the same text.

        Where the record does not say it, a trace's do; of an import nobody knows that they do.
        """
        said = self.corpus.get("parallel")
        return "imported" not in self.settings if said is None else bool(said)

    @property
    def special_token_ids(self) -> list[int] | None:
        """Return the token ids that are no text, such as those that begin and end one; None where nobody knows."""
        return self.model.get("special_token_ids")

    def identity(self) -> dict[str, Any]:
        """Return the part of the record that must not change while a run is resumed."""
        record = asdict(self)
        if not self.settings.get("skip_special"):
            record["model"].pop("special_token_ids", None)  # older records lack them, and the tokenizer has a digest
        # What a person chose stands first: it is what a message about a difference should name.
        return {key: record[key] for key in ("run", "settings", "model", "routing", "corpus")}

    def _meaning(self) -> dict[str, Any]:
        """Return the identity with `parallel` spelled out: an older record does not say what a newer one does."""
        found = self.identity()
        return {**found, "corpus": {**found["corpus"], "parallel": self.parallel}}

    def sha256(self) -> str:
        """Return the digest of the identity."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def check(self, where: str) -> None:
        """Raise StoreError, naming `where` and the field, where this could not be read as a run record."""
        try:
            check_record(RunSchema, json.loads(json.dumps(asdict(self), allow_nan=False)), where)
        except ValueError as error:
            raise StoreError(f"{where}: holds a number that is none (NaN or an infinity)") from error

    def to_json(self) -> str:
        """Return the record, with its checksum, as JSON text."""
        return sealed_text(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, where: str, *, sealed: bool) -> RunRecord:
        """Read a record; raise StoreError, naming `where` and the field, for what is not one as it was written.

        `sealed`: whether it has to carry a checksum.
        """
        found = read_sealed(text, where, required=sealed)
        check_record(RunSchema, found, where)
        return cls(**found)

    def require_same(self, other: RunRecord) -> None:
        """Raise RunMismatchError naming the first fields in which `other` is another run."""
        # Both sides through JSON, so that a tuple and the list it was stored as are equal.
        mine, theirs = (json.loads(json.dumps(record._meaning())) for record in (self, other))  # noqa: SLF001
        found = [f"{path}: {old!r} in the store, {new!r} now" for path, old, new in _differences(mine, theirs)]
        if found:
            raise RunMismatchError(
                f"run '{self.run}' is in the store with another record ({'; '.join(found[:3])}"
                f"{'; ...' if len(found) > 3 else ''}); pass --run with a new name, or trace as before"
            )


@dataclass(frozen=True)
class FileRecord:
    """One data file of a shard; `crc32` has 8 hexadecimal digits for every 64 KiB of it (since format version 3)."""

    path: str
    table: str
    rows: int
    bytes: int
    sha256: str
    crc32: str | None = None


@dataclass(frozen=True)
class CommitRecord:
    """A shard's commit record: it exists if, and only if, the shard is whole.

    `version` is the format version that the shard was written in; None in a record of version 1 or 2.
    """

    run: str
    lang: str
    shard: int
    run_sha256: str
    sequences: int
    tokens: int
    files: tuple[FileRecord, ...]
    created: str
    version: int | None = None

    @property
    def key(self) -> str:
        """Return a name for the shard that is unique in its run."""
        return shard_key(self.lang, self.shard)

    def file(self, table: str) -> FileRecord | None:
        """Return the file of a table; None where the run does not have it."""
        return next((file for file in self.files if file.table == table), None)

    def to_json(self) -> str:
        """Return the record, with its checksum, as JSON text."""
        return sealed_text(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, where: str, *, sealed: bool) -> CommitRecord:
        """Read a record; raise StoreError, naming `where` and the field, for what is not one as it was written.

        `sealed`: whether it has to carry a checksum.
        """
        found = read_sealed(text, where, required=sealed)
        check_record(CommitSchema, found, where)
        return cls.from_fields(found)

    @classmethod
    def from_fields(cls, checked: Mapping[str, Any]) -> CommitRecord:
        """Make a record of what was checked."""
        return cls(**{**checked, "files": tuple(FileRecord(**entry) for entry in checked["files"])})

    def check_under(self, record: RunRecord, where: str) -> None:
        """Raise StoreError, naming `where`, where this cannot be a shard of a run as its record says.

        Holds the digest of the run record, the tables, and how many rows each must have.
        """
        if self.run_sha256 != record.sha256():
            raise StoreError(
                f"{where}: run_sha256 is {self.run_sha256[:12]}…, the record of run '{record.run}' has digest "
                f"{record.sha256()[:12]}…; one of the two is damaged, see `moetrace verify`"
            )
        named = [file.table for file in self.files]
        if sorted(named) != sorted(record.tables):
            raise StoreError(
                f"{where}: files are of {', '.join(sorted(named))}, run '{record.run}' has "
                f"{', '.join(sorted(record.tables))}"
            )
        if self.tokens > MOST_TOKENS and {"tokens", "routes"} & {*named}:
            raise StoreError(
                f"{where}: tokens is {self.tokens}, a shard whose tokens are kept has at most {MOST_TOKENS}"
            )
        decisions = len(record.moe_layers) * record.top_k
        pool = len(record.moe_layers) * record.num_experts
        rows = {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "routes": self.tokens * decisions,
            "profiles": self.sequences * pool,
            "usage": pool,
        }
        for file in self.files:
            if file.rows != rows[file.table]:
                raise StoreError(
                    f"{where}: the file of {file.table} has {file.rows} rows; {self.sequences} texts of {self.tokens} "
                    f"tokens have {rows[file.table]}"
                )


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif old != new:
        yield path, old, new

"""The records a store is read by: the run record and the commit records, as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from moetrace.store.errors import RunMismatchError, StoreError
from moetrace.store.format.layout import shard_key


@dataclass(frozen=True)
class RunRecord:
    """What a run is: one model, traced over one corpus with one choice of settings.

    Everything but `provenance` identifies the run: resuming with a record that differs there is refused.

    - model: id, revision, config_sha256, family, moe_layers, num_layers, num_experts, top_k, dtype, tokenizer_sha256,
      and, where known, parameters_per_expert and parameters (of the whole model)
    - routing: scoring (softmax | sigmoid), normalized (the weights of a token sum to `scale`), scale,
      selection_bias (selection uses a bias that weights do not carry); null in a run without `routes`: unknown
    - corpus: sha256, languages, pivot, and texts, tokens and shards of each language
    - settings: what else decides the numbers (max_model_len, shard_tokens, weight_precision, tables, engine, ...);
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

    def identity(self) -> dict[str, Any]:
        """Return the part of the record that must not change while a run is resumed."""
        record = asdict(self)
        # What a person chose stands first: it is what a message about a difference should name.
        return {key: record[key] for key in ("run", "settings", "model", "routing", "corpus")}

    def sha256(self) -> str:
        """Return the digest of the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the record as JSON text."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> RunRecord:
        """Read a record; raise StoreError naming `where` when it is not one."""
        names = ("run", "model", "routing", "corpus", "settings", "provenance")
        return cls(**_fields(_read(text, where), where, names))

    def require_same(self, other: RunRecord) -> None:
        """Raise RunMismatchError naming the first fields in which `other` is another run."""
        # Both sides through JSON, so that a tuple and the list it was stored as are equal.
        mine, theirs = (json.loads(json.dumps(record.identity())) for record in (self, other))
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
        """Return the record as JSON text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> CommitRecord:
        """Read a record; raise StoreError naming `where` when it is not one."""
        return cls.from_fields(_read(text, where), where)

    @classmethod
    def from_fields(cls, read: Any, where: str) -> CommitRecord:
        """Make a record of what JSON held; raise StoreError naming `where` when it is not one."""
        names = ("run", "lang", "shard", "run_sha256", "sequences", "tokens", "files", "created")
        fields = _fields(read, where, names)
        try:
            fields["files"] = tuple(FileRecord(**entry) for entry in fields["files"])
        except TypeError as error:
            raise StoreError(f"{where}: its list of files is damaged") from error
        return cls(**fields, version=read.get("version"))


def _read(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreError(f"{where}: not valid JSON; the record is damaged") from error


def _fields(read: Any, where: str, names: tuple[str, ...]) -> dict[str, Any]:
    missing = [name for name in names if not isinstance(read, dict) or name not in read]
    if missing:
        raise StoreError(f"{where}: the record lacks {', '.join(missing)}; it is damaged or of another version")
    return {name: read[name] for name in names}


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    elif old != new:
        yield path, old, new

"""Records beside the run's: its plan, which is how the corpus is cut into shards, and texts that were set aside.

Both save work and say what is lacking; that a shard is whole rests on its commit record alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from moetrace.store.format.layout import shard_key
from moetrace.store.format.record_schemas import FailedSchema, PlanSchema, check_record
from moetrace.store.format.sealed import read_sealed, sealed_text

MOST_OF_A_PLAN = 64 << 20  # bytes, of more than a million shards
PlannedShards = Mapping[str, Sequence[tuple[int, int]]]  # language -> texts and tokens of each shard


@dataclass(frozen=True)
class PlanRecord:
    """How the corpus of a run is cut: texts and tokens of every shard of each language, by their numbers from 0."""

    run: str
    run_sha256: str
    shards: PlannedShards

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return texts and tokens of every shard, by its key."""
        return {
            shard_key(lang, number): (texts, tokens)
            for lang, shards in self.shards.items()
            for number, (texts, tokens) in enumerate(shards)
        }

    def to_json(self) -> str:
        """Return the record, with its checksum, as JSON text."""
        shards = {
            lang: [{"sequences": texts, "tokens": tokens} for texts, tokens in sizes]
            for lang, sizes in self.shards.items()
        }
        return sealed_text({"run": self.run, "run_sha256": self.run_sha256, "shards": shards}, indent=None)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> PlanRecord:
        """Read a plan; raise StoreError, naming `where` and the field, for what is not one as it was written."""
        found = read_sealed(text, where, required=True, most=MOST_OF_A_PLAN)
        check_record(PlanSchema, found, where)
        shards = {
            lang: [(size["sequences"], size["tokens"]) for size in sizes] for lang, sizes in found["shards"].items()
        }
        return cls(found["run"], found["run_sha256"], shards)


@dataclass(frozen=True)
class FailedText:
    """A text that was set aside, and why."""

    seq: int
    text_id: str
    reason: str


@dataclass(frozen=True)
class FailedRecord:
    """The texts of a shard that were set aside; the shard is committed without them."""

    run: str
    lang: str
    shard: int
    run_sha256: str
    texts: tuple[FailedText, ...]

    def to_json(self) -> str:
        """Return the record, with its checksum, as JSON text."""
        return sealed_text(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> FailedRecord:
        """Read a record; raise StoreError, naming `where` and the field, for what is not one as it was written."""
        found = read_sealed(text, where, required=True)
        check_record(FailedSchema, found, where)
        return cls(**{**found, "texts": tuple(FailedText(**each) for each in found["texts"])})

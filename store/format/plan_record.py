"""Records beside the run's: its plan, which is how the corpus is cut into shards, and texts that were set aside.

Both save work and say what is lacking; that a shard is whole rests on its commit record alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from moetrace.store.format.layout import shard_key
from moetrace.store.format.record_schemas import FailedSchema, PlanSchema, check_record
from moetrace.store.format.sealed import read_sealed, sealed_text

REASON = 1000  # characters of a reason that are kept
MOST_OF_A_PLAN = 64 << 20  # bytes, of more than a million shards
PlannedShards = Mapping[str, Sequence[tuple[int, int]]]  # language -> texts and tokens of each shard
_LEFT_OUT = re.compile(r"the run's settings leave out all of its [0-9]+ tokens")


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

    @classmethod
    def left_out(cls, seq: int, text_id: str, tokens: int) -> FailedText:
        """Return a text of which a run's filters leave nothing, which is what was asked for and no failure."""
        return cls(seq, text_id, f"the run's settings leave out all of its {tokens} tokens")

    @classmethod
    def failed(cls, seq: int, text_id: str, why: str) -> FailedText:
        """Return a text that could not be traced; of `why` as much is kept as a record takes."""
        return cls(seq, text_id, f"could not be traced: {why}"[:REASON])

    @property
    def kind(self) -> Literal["filter", "failed"]:
        """Return why it was set aside: by the run's filters, or because it could not be traced."""
        return "filter" if _LEFT_OUT.fullmatch(self.reason) else "failed"


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

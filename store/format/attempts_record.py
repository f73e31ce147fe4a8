"""What is known of a shard under which processes died or engines failed: how far the search for a bad text is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from moetrace.store.format.layout import shard_key
from moetrace.store.format.record_schemas import AttemptsSchema, check_record
from moetrace.store.format.sealed import read_sealed, sealed_text

DEATHS = 2  # of processes that traced one text and nothing else, after which it is set aside
TWO_DIED = "two processes died while they traced it, and it alone"


@dataclass(frozen=True)
class Part:
    """Texts `first` up to `first + texts` of a shard, which are traced by themselves.

    deaths: processes that died while these texts, and no others, were under way; reason: why the text, for it is one,
    is set aside
    """

    first: int
    texts: int
    deaths: int = 0
    reason: str | None = None

    def halves(self) -> tuple[Part, Part]:
        """Return the two parts of a part of two texts or more."""
        first = self.texts // 2
        return Part(self.first, first), Part(self.first + first, self.texts - first)

    def judged(self) -> tuple[Part, ...]:
        """Return what the deaths that it saw make of the part: itself, its halves, or a text that is set aside."""
        if self.texts > 1 and self.deaths:
            return self.halves()
        if self.deaths >= DEATHS and self.reason is None:
            return (replace(self, reason=TWO_DIED),)
        return (self,)


@dataclass(frozen=True)
class AttemptsRecord:
    """How often a shard was under way when its process died, the parts it is traced in, and which is being tried.

    `trying` is the number of a part: a process writes it before it gives these texts, and nothing else, to the engine,
    and takes it back after that. Who finds it with a shard that nobody has any more knows that the process died.
    """

    run: str
    lang: str
    shard: int
    run_sha256: str
    deaths: int
    parts: tuple[Part, ...]
    trying: int | None = None

    @property
    def key(self) -> str:
        """Return a name for the shard that is unique in its run."""
        return shard_key(self.lang, self.shard)

    @property
    def texts(self) -> int:
        """Return the number of texts of the shard."""
        return sum(part.texts for part in self.parts)

    def after_death(self) -> AttemptsRecord:
        """Return the record after the process that had the shard died; the part that it was trying is in halves."""
        parts: list[Part] = []
        for number, part in enumerate(self.parts):
            died = replace(part, deaths=part.deaths + 1) if number == self.trying else part
            parts.extend(died.judged())
        return replace(self, deaths=self.deaths + 1, parts=tuple(parts), trying=None)

    def split(self, part: Part) -> AttemptsRecord:
        """Return the record with a part of it in halves."""
        at = self.parts.index(part)
        return replace(self, parts=(*self.parts[:at], *part.halves(), *self.parts[at + 1 :]))

    def to_json(self) -> str:
        """Return the record, with its checksum, as JSON text."""
        return sealed_text(asdict(self), indent=None)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> AttemptsRecord:
        """Read a record; raise StoreError, naming `where` and the field, for what is not one as it was written."""
        found = read_sealed(text, where, required=True)
        check_record(AttemptsSchema, found, where)
        return cls(**{**found, "parts": tuple(Part(**each) for each in found["parts"])})

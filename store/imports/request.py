"""What an import is asked to do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moetrace.store.errors import StoreError
from moetrace.store.format.layout import SHARD_TOKENS, checked_language, checked_run


@dataclass(frozen=True)
class Source:
    """A file or folder to import; `lang` is None where the file itself names its languages."""

    path: Path
    lang: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse `LANG=PATH` or `PATH`; raise StoreError for a language code that cannot be one."""
        before, found, after = text.partition("=")
        return cls(Path(after), checked_language(before)) if found else cls(Path(text))


@dataclass(frozen=True)
class ImportRequest:
    """What to import, and what the files do not say of themselves.

    - sources: at least one, no language twice
    - model_id, top_k, experts: None: what the files say, or else the format's default
    - shard_tokens, weight_precision: as for a trace; they matter to formats that have single decisions
    """

    sources: tuple[Source, ...]
    run: str
    model_id: str | None = None
    top_k: int | None = None
    experts: int | None = None
    shard_tokens: int = SHARD_TOKENS
    weight_precision: str = "f16"

    def __post_init__(self) -> None:
        """Raise StoreError where run or sources cannot be imported, whatever is in them."""
        checked_run(self.run)
        languages = [source.lang for source in self.sources if source.lang is not None]
        for lang in languages:
            if languages.count(lang) > 1:
                raise StoreError(f"{lang}: two sources for one language; name each language once")
        for source in self.sources:
            if not source.path.exists():
                raise StoreError(f"{source.path}: no such file or folder")

    def by_language(self) -> dict[str, Path]:
        """Return the source of each language, sorted; raise StoreError where one does not say its language."""
        for source in self.sources:
            if source.lang is None:
                raise StoreError(f"{source.path}: which language is it? write LANG={source.path}")
        return {str(source.lang): source.path for source in sorted(self.sources, key=lambda source: str(source.lang))}


@dataclass(frozen=True)
class ImportResult:
    """What an import did: shards and tokens written now, and shards that the store had or another process is doing."""

    run: str
    languages: int
    written_shards: int
    written_tokens: int
    skipped_shards: int

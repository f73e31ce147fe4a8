"""What an import is asked to do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.errors import ImportFormatError, StoreError
from moetrace.store.format.layout import SHARD_TOKENS, checked_language, checked_run
from moetrace.store.format.regular_file import regular_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


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
            if not _is_there(source.path):
                raise StoreError(f"{source.path}: no such file or folder")

    def by_language(self) -> dict[str, Path]:
        """Return the source of each language, sorted; raise StoreError where one does not say its language."""
        for source in self.sources:
            if source.lang is None:
                raise StoreError(f"{source.path}: which language is it? write LANG={source.path}")
        return {str(source.lang): source.path for source in sorted(self.sources, key=lambda source: str(source.lang))}


@dataclass(frozen=True)
class ImportResult:
    """What an import did: shards and tokens written now, shards that were there before, and which are `missing`.

    missing: keys of the shards that are not in the store: another living process has them in hand
    """

    run: str
    languages: int
    written_shards: int
    written_tokens: int
    skipped_shards: int
    missing: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, run: str, languages: int, planned: Sequence[str], written: Sequence[int], committed: Collection[str]
    ) -> ImportResult:
        """Return what came of the shards that were planned.

        planned: keys of all shards of the run; written: tokens of each shard that was written now; committed: keys of
        the shards that the store has after it
        """
        missing = tuple(key for key in planned if key not in committed)
        return cls(run, languages, len(written), sum(written), len(planned) - len(written) - len(missing), missing)


def total_size(paths: Iterable[Path]) -> int:
    """Return the bytes of some files; raise ImportFormatError where one is no file that can be read."""
    total = 0
    for path in paths:
        try:
            total += regular_size(path)
        except OSError as error:
            raise ImportFormatError(f"{path}: cannot be read ({error.strerror or error})") from error
    return total


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a folder that must not be looked into
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error

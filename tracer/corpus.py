"""Reading a parallel corpus: `--corpus SPEC` to texts with ids, language by language, through `datasets`.

A SPEC is a folder with one file per language, one table (a file, or `hf:<dataset>[:config[:split]]`) that is long
(columns lang, id, text) or wide (an id column and one column per language).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store import MoetraceError, UnknownNameError
from store.layout import LANGUAGE_NAME, checked_language

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger(__name__)

LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
LANG_COLUMNS = ("lang", "language")
ID_COLUMNS = ("id", "text_id")


@dataclass(frozen=True)
class Text:
    """One text of one language; its id is the same across languages."""

    id: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """A parallel corpus: its languages, sorted, and a way to read each one anew, in file order."""

    source: str
    languages: tuple[str, ...]
    read: Callable[[str], Iterator[Text]]

    def only(self, languages: Iterable[str]) -> Corpus:
        """Return the corpus restricted to some languages; raise UnknownNameError for one it does not have."""
        wanted = tuple(dict.fromkeys(languages))
        for lang in wanted:
            if lang not in self.languages:
                raise UnknownNameError.among("language", lang, self.languages, self.source)
        return Corpus(self.source, tuple(sorted(wanted)) or self.languages, self.read)


def open_corpus(spec: str) -> Corpus:
    """Open a corpus; raise MoetraceError naming the file where there is none or it is not in a form above."""
    if spec.startswith("hf:"):
        return _table_corpus(spec, _hub_rows(spec))
    path = Path(spec)
    if path.is_dir():
        return _folder_corpus(path)
    if path.is_file():
        _loader(path)
        return _table_corpus(spec, lambda: _file_rows(path))
    raise MoetraceError(
        f"corpus {spec}: no such folder or file; give a folder with one file per language, or hf:<dataset>"
    )


def _folder_corpus(folder: Path) -> Corpus:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in LOADERS or path.name.startswith("."):
            continue
        lang = checked_language(path.stem)
        if lang in files:
            raise MoetraceError(
                f"{folder}: two files for language {lang}: {files[lang].name} and {path.name}; keep one"
            )
        files[lang] = path
    if not files:
        raise MoetraceError(f"corpus {folder}: no language files ({', '.join(LOADERS)}), e.g. eng_Latn.jsonl")

    def read(lang: str) -> Iterator[Text]:
        return _checked(_texts(_file_rows(files[lang]), str(files[lang])), lang, str(files[lang]))

    return Corpus(str(folder), tuple(sorted(files)), read)


def _table_corpus(source: str, rows: Callable[[], Iterator[dict[str, Any]]]) -> Corpus:
    first = next(rows(), None)
    if first is None:
        raise MoetraceError(f"corpus {source}: has no rows")
    lang_column = next((name for name in LANG_COLUMNS if name in first), None)
    if lang_column and "text" in first:
        column = lang_column
        languages = sorted({checked_language(str(row[column])) for row in rows()})

        def read_long(lang: str) -> Iterator[Text]:
            mine = (row for row in rows() if row[column] == lang)
            return _checked(_texts(mine, source), lang, source)

        return Corpus(source, tuple(languages), read_long)
    languages = sorted(name for name in first if name not in ID_COLUMNS and LANGUAGE_NAME.fullmatch(name))
    if not languages:
        raise MoetraceError(f"corpus {source}: neither long (columns lang, text) nor wide (a column per language)")

    def read_wide(lang: str) -> Iterator[Text]:
        ids = next((name for name in ID_COLUMNS if name in first), None)
        present = ((number, row) for number, row in enumerate(rows()) if row[lang] is not None)
        texts = (Text(str(row[ids]) if ids else str(number), row[lang]) for number, row in present)
        return _checked(texts, lang, source)

    return Corpus(source, tuple(languages), read_wide)


def _file_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, streamed; raise MoetraceError with the place of a bad byte or line."""
    from datasets import load_dataset  # noqa: PLC0415  seconds to import: only where a corpus is read
    from datasets.exceptions import DatasetGenerationError  # noqa: PLC0415

    kind = _loader(path)
    if kind != "parquet":
        _require_utf8(path)
    options: dict[str, Any] = {"keep_linebreaks": False} if kind == "text" else {}
    if kind == "csv":
        # An id such as 007 and a text such as 12 are text.
        options = {"keep_default_na": False, "converters": dict.fromkeys((*ID_COLUMNS, "text"), str)}
    if path.stat().st_size == 0:
        return
    try:
        yield from load_dataset(kind, data_files=str(path), split="train", streaming=True, **options)
    except (DatasetGenerationError, ValueError, TypeError, OSError) as error:
        raise MoetraceError(f"{path}: cannot be read as {kind} ({str(error).splitlines()[0]})") from error


def _hub_rows(spec: str) -> Callable[[], Iterator[dict[str, Any]]]:
    """Return a reader of `hf:<dataset>[:config[:split]]`; the dataset may be a local folder."""
    name, config, split = (*spec.removeprefix("hf:").split(":"), "", "")[:3]

    def rows() -> Iterator[dict[str, Any]]:
        from datasets import load_dataset  # noqa: PLC0415
        from datasets.exceptions import DatasetNotFoundError  # noqa: PLC0415

        try:
            loaded = load_dataset(name, config or None, streaming=True)
        except (DatasetNotFoundError, OSError, ValueError) as error:
            raise MoetraceError(f"corpus {spec}: cannot be loaded ({str(error).splitlines()[0]})") from error
        if split and split not in loaded:
            raise UnknownNameError.among("split", split, loaded, spec)
        yield from loaded[split or next(iter(loaded))]

    return rows


def _texts(rows: Iterable[dict[str, Any]], source: str) -> Iterator[Text]:
    """Turn rows with a text (and mostly an id) into texts; a row without an id is named by its line number, from 1."""
    for number, row in enumerate(rows, start=1):
        if "text" not in row:
            raise MoetraceError(f"{source}: row {number} has no 'text' (it has {', '.join(row)})")
        text_id = next((row[name] for name in ID_COLUMNS if row.get(name) is not None), number)
        yield Text(str(text_id), row["text"])


def _checked(texts: Iterable[Text], lang: str, source: str) -> Iterator[Text]:
    """Pass texts on; raise MoetraceError at an empty text, a repeated id, or where there is no text at all."""
    seen: set[str] = set()
    for text in texts:
        if not isinstance(text.text, str) or not text.text.strip():
            raise MoetraceError(f"{source}: text '{text.id}' of {lang} is empty; remove the row or fill it in")
        if text.id in seen:
            raise MoetraceError(
                f"{source}: id '{text.id}' stands twice in {lang}; ids must be unique within a language"
            )
        seen.add(text.id)
        yield text
    if not seen:
        raise MoetraceError(f"{source}: language {lang} has no texts; remove the file or fill it")


def _loader(path: Path) -> str:
    if path.suffix not in LOADERS:
        raise MoetraceError(f"{path}: files of type '{path.suffix}' cannot be read; use {', '.join(LOADERS)}")
    return LOADERS[path.suffix]


def _require_utf8(path: Path) -> None:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise MoetraceError(f"{path}: line {number} is not UTF-8 ({error.reason}); convert the file") from error

"""Reading a parallel corpus: `--corpus SPEC` to texts with ids, language by language, through `datasets`.

A SPEC is a folder with one file per language, one table (a file, or `hf:<dataset>[:config[:split]]`) that is long
or wide, or a dataset with a config per language. Texts are streamed: nothing here holds a corpus.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError, UnknownNameError
from moetrace.store.format.layout import checked_language
from moetrace.tracer.corpus.fields import Fields
from moetrace.tracer.corpus.ids import UniqueIds
from moetrace.tracer.corpus.rows import LOADERS, Dataset, file_rows, loader
from moetrace.tracer.corpus.sample import draw
from moetrace.tracer.corpus.tables import dataset_languages, table_languages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from moetrace.tracer.corpus.fields import Text


@dataclass(frozen=True)
class Corpus:
    """A parallel corpus: its languages, sorted, and a way to read each one anew, in file order.

    texts: reads a language unchecked; selection: what of the corpus was chosen, as the run record keeps it.
    """

    source: str
    languages: tuple[str, ...]
    texts: Callable[[str], Iterator[Text]]
    selection: Mapping[str, object] = field(default_factory=dict)

    def read(self, lang: str, ids: UniqueIds | None = None) -> Iterator[Text]:
        """Yield the texts of a language; their ids are added to `ids`, where it is given.

        Raises MoetraceError at an empty text, a repeated id (at the latest after the last text), or where there is no
        text at all.
        """
        ids = UniqueIds() if ids is None else ids
        for text in self.texts(lang):
            if text.is_empty:
                raise MoetraceError(f"{self.source}: text '{text.id}' of {lang} is empty; remove the row or fill it in")
            ids.add(text.id)
            if ids.time_to_look():
                self._refuse_repeats(lang, ids)
            yield text
        self._refuse_repeats(lang, ids)
        if not len(ids):
            raise MoetraceError(f"{self.source}: language {lang} has no texts; remove it or fill it")

    def only(self, languages: Iterable[str]) -> Corpus:
        """Return the corpus restricted to some languages; raise UnknownNameError for one it does not have."""
        wanted = tuple(dict.fromkeys(languages))
        for lang in wanted:
            if lang not in self.languages:
                raise UnknownNameError.among("language", lang, self.languages, self.source)
        return replace(self, languages=tuple(sorted(wanted)) or self.languages)

    def first(self, count: int) -> Corpus:
        """Return the corpus with the first texts of each language; raise MoetraceError where it is a sample."""
        if "sample" in self.selection:
            raise MoetraceError("--limit and --sample are two ways to take fewer texts; choose one")
        return replace(self, texts=lambda lang: islice(self.texts(lang), count))

    def sample(self, count: int, seed: int = 0) -> Corpus:
        """Return the corpus with `count` ids drawn from those that all its languages have, in file order.

        The same ids in each language, whatever the order of languages or texts; a smaller sample is part of a larger
        one with the same seed. Reads every language once. Raises MoetraceError where the languages share fewer ids.
        """
        chosen = draw(self.source, {lang: partial(self.read, lang) for lang in self.languages}, count, seed)
        selection = {**self.selection, "sample": count, "sample_seed": seed}
        return replace(self, texts=lambda lang: chosen.of(self.texts(lang)), selection=selection)

    def _refuse_repeats(self, lang: str, ids: UniqueIds) -> None:
        for digest in ids.repeats():
            # Only digests are remembered: the texts are read again to compare, and to name, the ids themselves.
            one, other = islice((text.id for text in self.texts(lang) if ids.digest(text.id) == digest), 2)
            if one == other:
                raise MoetraceError(
                    f"{self.source}: id '{one}' stands twice in {lang}; ids must be unique within a language"
                )


def open_corpus(spec: str, *, text_template: str | None = None, id_template: str | None = None) -> Corpus:
    """Open a corpus; templates such as `{flores_passage} {question}` join columns to a text or an id.

    Raises MoetraceError naming the file where there is none or it is not in a form above, or a malformed template.
    """
    return open_rows(spec, Fields.of(text_template, id_template))


def open_rows(spec: str, fields: Fields) -> Corpus:
    """Open a corpus whose rows `fields` makes into texts; raise MoetraceError as `open_corpus` does."""
    path = Path(spec)
    if spec.startswith("hf:"):
        languages, texts = dataset_languages(Dataset.parse(spec), fields)
    elif path.is_dir():
        languages, texts = _folder_languages(path, fields)
    elif path.is_file():
        loader(path)
        languages, texts = table_languages(spec, partial(file_rows, path), fields)
    else:
        raise MoetraceError(
            f"corpus {spec}: no such folder or file; give a folder with one file per language, or hf:<dataset>"
        )
    return Corpus(spec, tuple(sorted(languages)), texts, fields.selection())


def _folder_languages(folder: Path, fields: Fields) -> tuple[Iterable[str], Callable[[str], Iterator[Text]]]:
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
    return files, lambda lang: fields.texts(file_rows(files[lang]), str(files[lang]))

"""What a model is asked: multiple choice, a number, or texts alone, from the columns that benchmarks have.

A task is a corpus whose rows say more than a text. Which of these it is, its first row's columns tell:

- multiple choice: `choices` (a list) and `answer` (an index from 0, a letter from A, or the choice itself) beside
  `question` or `text`; Belebele (facebook/belebele), Global-MMLU (CohereForAI/Global-MMLU); MultiBLiMP
  (jumelet/multiblimp), where nothing stands before the two sentences
- a number: `question` and `answer_number`, as MGSM (juletxara/mgsm) has them
- perplexity: every other corpus
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.tracer.corpus.corpus import open_rows
from moetrace.tracer.corpus.fields import Fields, Template, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from moetrace.tracer.corpus.corpus import Corpus

    Row = Mapping[str, Any]

CHOICE, NUMBER, PERPLEXITY = "choice", "number", "perplexity"
PROMPT_COLUMNS = ("question", "text", "sentence", "context")
BELEBELE_CHOICES = tuple(f"mc_answer{number}" for number in range(1, 5))
MMLU_CHOICES = tuple(f"option_{letter}" for letter in "abcd")
MULTIBLIMP_CHOICES = ("sen", "wrong_sen")
TEMPLATES = {"flores_passage": Template.parse("prompt", "{flores_passage}\n{question}")}


@dataclass(frozen=True)
class Item(Text):
    """One item of one language: `text` is what stands before the answer, empty where nothing does.

    choices: the answers to choose from, of which `answer` is the right one's place; number: the right number
    """

    choices: tuple[str, ...] = ()
    answer: int = 0
    number: Decimal | None = None

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is there to read."""
        return not self.choices and super().is_empty


@dataclass(frozen=True)
class Task:
    """A corpus of items of one kind: choice, number or perplexity."""

    kind: str
    corpus: Corpus

    def chosen(
        self,
        languages: Iterable[str] = (),
        *,
        limit: int | None = None,
        sample: int | None = None,
        sample_seed: int = 0,
    ) -> Task:
        """Return the task of some languages and some of their items; raise MoetraceError as `Corpus` does."""
        corpus = self.corpus.only(languages)
        corpus = corpus if sample is None else corpus.sample(sample, sample_seed)
        return replace(self, corpus=corpus if limit is None else corpus.first(limit))

    def items(self, lang: str) -> Iterator[Item]:
        """Yield the items of a language; raise MoetraceError for one that is not of the task's kind."""
        for item in self.corpus.read(lang):
            found = item if isinstance(item, Item) else Item(item.id, item.text)
            if _kind_of(found) != self.kind:
                raise MoetraceError(f"{self.corpus.source}: item '{item.id}' of {lang} is not of kind {self.kind}")
            yield found


def open_task(spec: str, *, text_template: str | None = None, id_template: str | None = None) -> Task:
    """Open a task; `text_template` says what stands before the answer.

    Raises MoetraceError as `open_corpus` does, and where a row's choices or answer are none.
    """
    corpus = open_rows(spec, TaskFields.of(text_template, id_template))
    first = next(corpus.read(corpus.languages[0]))
    return Task(_kind_of(first) if isinstance(first, Item) else PERPLEXITY, corpus)


class TaskFields(Fields):
    """How rows become items."""

    def has_text(self, columns: Collection[str]) -> bool:
        """Tell whether a row with these columns is an item or a text."""
        return _layout(columns) is not None or super().has_text(columns)

    def texts(self, rows: Iterable[Row], source: str) -> Iterator[Text]:
        """Turn the rows of one language into items; a row without an id is named by its number, from 1."""
        for number, row in enumerate(rows, start=1):
            where = f"{source}: row {number}"
            layout = _layout(row)
            if layout is None:
                yield Item(self.id_of(row, number, where), self._text(row, where))
                continue
            found = layout(row, where)
            prompt = "" if layout is _multiblimp and self.text is None else self._prompt(row, where)
            yield Item(self.id_of(row, number, where), prompt, **found)

    def id_of(self, row: Row, number: int, where: str) -> str:
        """Return a row's id: as a corpus's, or Global-MMLU's."""
        if self.id is None and row.get("sample_id") is not None:
            return str(row["sample_id"])
        return super().id_of(row, number, where)

    def _prompt(self, row: Row, where: str) -> str:
        template = self.text or next((TEMPLATES[name] for name in TEMPLATES if name in row), None)
        if template is not None:
            return template.fill(row, where)
        column = next((name for name in PROMPT_COLUMNS if row.get(name) is not None), None)
        if column is None:
            raise MoetraceError(
                f"{where} has nothing to ask (it has {', '.join(row)}); say which columns to read with --text-template"
            )
        return str(row[column])


def _kind_of(item: Text) -> str:
    if isinstance(item, Item) and item.choices:
        return CHOICE
    return NUMBER if isinstance(item, Item) and item.number is not None else PERPLEXITY


def _layout(columns: Collection[str]) -> Callable[[Row, str], dict[str, Any]] | None:
    """Return what makes a row's answer of its columns, None where a row is only a text."""
    for needed, layout in LAYOUTS:
        if all(name in columns for name in needed):
            return layout
    return None


def _choices(row: Row, where: str) -> dict[str, Any]:
    found = row["choices"]
    if not isinstance(found, list) or len(found) < 2 or not all(isinstance(one, str) and one.strip() for one in found):
        raise MoetraceError(f"{where}: choices must be a list of two texts or more")
    return {"choices": tuple(found), "answer": _place(row["answer"], found, where)}


def _belebele(row: Row, where: str) -> dict[str, Any]:
    found = _texts(row, BELEBELE_CHOICES, where)
    said = str(row["correct_answer_num"])
    if said not in {"1", "2", "3", "4"}:
        raise MoetraceError(f"{where}: correct_answer_num {said} is none of 1 to 4")
    return {"choices": found, "answer": int(said) - 1}


def _global_mmlu(row: Row, where: str) -> dict[str, Any]:
    found = _texts(row, MMLU_CHOICES, where)
    return {"choices": found, "answer": _place(row["answer"], found, where)}


def _multiblimp(row: Row, where: str) -> dict[str, Any]:
    return {"choices": _texts(row, MULTIBLIMP_CHOICES, where), "answer": 0}


def _mgsm(row: Row, where: str) -> dict[str, Any]:
    number = as_number(str(row["answer_number"]))
    if number is None:
        raise MoetraceError(f"{where}: answer_number {row['answer_number']} is no number")
    return {"number": number}


LAYOUTS = (
    (("choices", "answer"), _choices),
    ((*BELEBELE_CHOICES, "correct_answer_num"), _belebele),
    ((*MMLU_CHOICES, "answer"), _global_mmlu),
    (MULTIBLIMP_CHOICES, _multiblimp),
    (("answer_number",), _mgsm),
)


def _texts(row: Row, columns: tuple[str, ...], where: str) -> tuple[str, ...]:
    for name in columns:
        if row[name] is None or not str(row[name]).strip():
            raise MoetraceError(f"{where}: column '{name}' is empty; fill it in")
    return tuple(str(row[name]) for name in columns)


def _place(said: Any, choices: Collection[str], where: str) -> int:
    """Return the place of the right choice: said as itself, as a letter from A, or as an index from 0."""
    known = list(choices)
    if said in known:
        return known.index(said)
    place = -1
    if isinstance(said, int) and not isinstance(said, bool):
        place = said
    elif isinstance(said, str) and said.strip().isdecimal() and len(said) < 10:
        place = int(said)
    elif isinstance(said, str) and len(said.strip()) == 1:
        place = ascii_uppercase.find(said.strip().upper())
    if not 0 <= place < len(known):
        raise MoetraceError(f"{where}: answer {said!r} is none of the {len(known)} choices")
    return place


def as_number(text: str) -> Decimal | None:
    """Return the number that a text is, in the digits of any script, None where it is none."""
    digits = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text.strip())
    try:
        found = Decimal(digits)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None

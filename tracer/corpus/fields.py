"""From a row to a text and its id: which columns are read, and templates that join several of them."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

TEXT_COLUMNS = ("text", "sentence")
ID_COLUMNS = ("id", "text_id")


@dataclass(frozen=True)
class Text:
    """One text of one language; its id is the same across languages."""

    id: str
    text: str

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is there to read."""
        return not isinstance(self.text, str) or not self.text.strip()


@dataclass(frozen=True)
class Template:
    """Literal text and column names in braces, such as `{flores_passage} {question}`; doubled braces are literal.

    parts: pairs of literal text and the column that follows it (None where none does).
    """

    source: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, option: str, source: str) -> Template:
        """Parse a template; raise MoetraceError, naming the option, where it is malformed or names no column."""
        try:
            parsed = list(Formatter().parse(source))
        except ValueError as error:
            raise MoetraceError(f"{option} '{source}': {error}; write {{column}}, and {{{{ for a brace") from error
        for _, column, spec, conversion in parsed:
            if column == "" or spec or conversion:
                raise MoetraceError(f"{option} '{source}': only a column's name may stand in braces, as in {{text}}")
        parts = tuple((literal, column) for literal, column, _, _ in parsed)
        if all(column is None for _, column in parts):
            raise MoetraceError(
                f"{option} '{source}': names no column, so every row would read alike; write {{column}}"
            )
        return cls(source, parts)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are filled in."""
        return tuple(column for _, column in self.parts if column is not None)

    def require(self, columns: Collection[str], where: str) -> None:
        """Raise MoetraceError where a column is not among those of a row, and name those there are."""
        for column in self.columns:
            if column not in columns:
                raise MoetraceError(
                    f"{where} has no column '{column}' for '{self.source}' (it has {', '.join(columns)})"
                )

    def fill(self, row: Mapping[str, Any], where: str) -> str:
        """Return the template with a row's values; raise MoetraceError at a column that is missing or empty."""
        self.require(row, where)
        for column in self.columns:
            if row[column] is None:
                raise MoetraceError(f"{where}: column '{column}' is empty; fill it in, or leave it out of the template")
        return "".join(literal if column is None else f"{literal}{row[column]}" for literal, column in self.parts)


BELEBELE_ID = Template.parse("id", "{link}#{question_number}")  # a passage may have several questions


@dataclass(frozen=True)
class Fields:
    """How rows become texts: templates where they were asked for, else the columns that corpora usually have."""

    text: Template | None = None
    id: Template | None = None

    @classmethod
    def of(cls, text_template: str | None, id_template: str | None) -> Fields:
        """Parse the templates that were asked for; raise MoetraceError where one is malformed."""
        return cls(
            None if text_template is None else Template.parse("--text-template", text_template),
            None if id_template is None else Template.parse("--id-template", id_template),
        )

    def selection(self) -> dict[str, object]:
        """Return what of it a run record keeps: the templates that were asked for."""
        asked = {"text_template": self.text, "id_template": self.id}
        return {name: template.source for name, template in asked.items() if template is not None}

    def has_text(self, columns: Collection[str]) -> bool:
        """Tell whether a row with these columns has a text (a template says that it should)."""
        return self.text is not None or any(name in columns for name in TEXT_COLUMNS)

    def texts(self, rows: Iterable[Mapping[str, Any]], source: str) -> Iterator[Text]:
        """Turn the rows of one language into texts; a row without an id is named by its number, from 1."""
        for number, row in enumerate(rows, start=1):
            where = f"{source}: row {number}"
            text = self._text(row, where)
            yield Text(self.id_of(row, number, where), text)

    def id_of(self, row: Mapping[str, Any], number: int, where: str) -> str:
        """Return a row's id: by the template, by Belebele's columns, from `id` or `text_id`, or else its number."""
        template = self.id or (BELEBELE_ID if "flores_passage" in row else None)
        if template is not None:
            return template.fill(row, where)
        return str(next((row[name] for name in ID_COLUMNS if row.get(name) is not None), number))

    def _text(self, row: Mapping[str, Any], where: str) -> Any:
        if self.text is not None:
            return self.text.fill(row, where)
        column = next((name for name in TEXT_COLUMNS if name in row), None)
        if column is None:
            raise MoetraceError(
                f"{where} has no 'text' (it has {', '.join(row)}); say which columns to read, "
                f"such as --text-template '{{{list(row)[-1]}}}'"
            )
        return row[column]

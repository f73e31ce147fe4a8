"""Where the languages of a table or a dataset are: in a column, in the columns' names, or in its configs.

- long: a row is a text of one language, which `lang`, `language`, or FLORES+'s `iso_639_3` and `iso_15924` name
- wide: a row is a text in all languages, one column each; FLORES's are `sentence_eng_Latn` and so on
- a config per language: FLORES+ (openlanguagedata/flores_plus), Belebele (facebook/belebele), FLORES (facebook/flores)
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.store.format.layout import LANGUAGE_NAME, checked_language
from moetrace.tracer.corpus.fields import ID_COLUMNS, Fields, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from moetrace.tracer.corpus.rows import Dataset, Row

    Languages = tuple[Iterable[str], Callable[[str], Iterator[Text]]]

LANG_COLUMNS = ("lang", "language")
ISO_COLUMNS = ("iso_639_3", "iso_15924")
SENTENCE = "sentence_"
WHOLE_CONFIGS = ("default", "all")
# A code as corpora write it: a language, then maybe a script, a region, and a variant or glottocode.
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}([_-][A-Z][a-z]{3})?([_-]([A-Z]{2}|\d{3}))?([_-][a-z0-9]{4,8})?")
LANGUAGE_PAIR = re.compile(rf"{LANGUAGE_CODE.pattern}-{LANGUAGE_CODE.pattern}")


def table_languages(source: str, rows: Callable[[], Iterator[Row]], fields: Fields) -> Languages:
    """Return a table's languages and a reader of one of them; raise MoetraceError where it has no layout above."""
    first = next(rows(), None)
    if first is None:
        raise MoetraceError(f"corpus {source}: has no rows")
    if _is_long(first):
        return _long(source, rows, fields)
    if fields.has_text(first):
        raise MoetraceError(
            f"corpus {source}: no column says which language a text is in (it has {', '.join(first)}); "
            f"add a column lang, or make it a folder with a file per language"
        )
    return _wide(source, rows, fields, first)


def dataset_languages(dataset: Dataset, fields: Fields) -> Languages:
    """Return a dataset's languages and a reader of one of them; only the configs that are read are loaded.

    Raises MoetraceError where it cannot be reached or has no layout above, UnknownNameError for an unknown config.
    """
    configs = dataset.configs()
    codes = [config for config in configs if config not in WHOLE_CONFIGS and not LANGUAGE_PAIR.fullmatch(config)]
    if not dataset.config and codes and all(LANGUAGE_CODE.fullmatch(code) for code in codes):
        return codes, partial(_config_texts, dataset, fields)
    config = dataset.config or None
    if config in codes and LANGUAGE_CODE.fullmatch(config):
        first = next(dataset.rows(config), None)
        if first is not None and not _is_long(first) and not _sentence_columns(first):
            return [config], partial(_config_texts, dataset, fields)
    if config is None and "default" not in configs and len(configs) > 1:
        raise MoetraceError(
            f"corpus {dataset.spec}: which config? write hf:{dataset.name}:CONFIG with one of {_some(configs)}"
        )
    return table_languages(dataset.spec, lambda: dataset.rows(config), fields)


def _config_texts(dataset: Dataset, fields: Fields, lang: str) -> Iterator[Text]:
    return fields.texts(dataset.rows(lang), f"{dataset.spec} {lang}")


def _is_long(row: Row) -> bool:
    return any(name in row for name in LANG_COLUMNS) or all(name in row for name in ISO_COLUMNS)


def _lang_of(row: Row) -> str:
    name = next((name for name in LANG_COLUMNS if name in row), None)
    return str(row[name]) if name else "_".join(str(row[name]) for name in ISO_COLUMNS)


def _long(source: str, rows: Callable[[], Iterator[Row]], fields: Fields) -> Languages:
    def read(lang: str) -> Iterator[Text]:
        return fields.texts((row for row in rows() if _lang_of(row) == lang), source)

    return {checked_language(_lang_of(row)) for row in rows()}, read


def _sentence_columns(row: Row) -> dict[str, str]:
    return {name.removeprefix(SENTENCE): name for name in row if name.startswith(SENTENCE)}


def _wide(source: str, rows: Callable[[], Iterator[Row]], fields: Fields, first: Row) -> Languages:
    columns = _sentence_columns(first) or {name: name for name, value in first.items() if _may_be_language(name, value)}
    if not columns:
        raise MoetraceError(
            f"corpus {source}: neither long (columns lang, text) nor wide (a column per language); it has "
            f"{', '.join(first)}"
        )

    def read(lang: str) -> Iterator[Text]:
        column = columns[lang]
        for number, row in enumerate(rows()):
            if row[column] is not None:
                yield Text(fields.id_of(row, number, f"{source}: row {number + 1}"), row[column])

    return columns, read


def _may_be_language(column: str, value: object) -> bool:
    """Tell whether a wide table's column can hold texts: a code of anybody's choice, but no number or link."""
    is_text = value is None or (isinstance(value, str) and not value.startswith(("http://", "https://")))
    return is_text and column not in ID_COLUMNS and LANGUAGE_NAME.fullmatch(column) is not None


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

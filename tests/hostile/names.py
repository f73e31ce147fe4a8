"""Names and texts that would be obeyed where they became a part of SQL, a page, a terminal or a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hostile.case import COMMIT, COPY, INDEX, RUN, write_ascii
from tests.hostile.hostile import BESIDE, HARMLESS, REFUSED, Hostile
from tests.support.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from tests.hostile.case import Case

# Seen from the folder that a command runs in; no slash, so that it can be the name of a file.
CANARY = r"e'..\x2f..\x2fcanary\x2fsecret.txt'"
SQL = f"x' group by all; copy (select content from read_text({CANARY})) to 'loot.csv'; --"
SCRIPT = "<script>alert('owned')</script>"
SUM = "{{ 7 * 191 }}"  # 1337 where a template obeys it
SHOWN = f"""a' or "b" {SUM} {{% include 'x' %}} {SCRIPT} $(touch loot) `touch loot` %s {{0}} \\ ; -- [red]m[/red]"""
LETTERS = str.maketrans("0123456789", "abcdefghij")  # no number of a name is SUM
TERMINAL = "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\b\x9b2J \u202eevil\u202c \u2066x\u2069 \u2028line\nline\ttab\x00nul"

NAMES = {
    "sql": SQL,
    "script": SCRIPT,
    "terminal": TERMINAL,
    "template": SUM,
    "up": "..",
    "root": "/etc",
    "empty": "",
    "long": "x" * 10_000_000,
    "url": "http://127.0.0.1:9/x",
    "newline_last": "run\n",
    "full_width": "\uff52un",
}


def stores() -> Iterator[tuple[str, Hostile]]:
    for what, name in NAMES.items():
        yield f"run_named_{what}", Hostile(_run_said(name), REFUSED)
        yield f"language_named_{what}_in_run", Hostile(_languages_said(name), REFUSED)
    for what in ("sql", "terminal", "up", "long"):
        yield f"language_named_{what}_in_commit", Hostile(_commit_said(NAMES[what]), REFUSED)
        yield f"language_named_{what}_in_index", Hostile(_index_said(NAMES[what]), BESIDE)
        yield f"pivot_named_{what}", Hostile(_pivot_said(NAMES[what]), REFUSED)
    yield "run_file_named_sql", Hostile(_run_file(SQL), REFUSED)
    yield "run_file_named_terminal", Hostile(_run_file("\x1b[2J\nx\u202e"), REFUSED)
    yield "language_folder_named_sql", Hostile(_language_folder(SQL), REFUSED)
    yield "language_folder_named_no_unicode", Hostile(_language_folder("\udcff\udcfe"), REFUSED)
    yield "run_folder_named_sql", Hostile(lambda case: _move(case, "commits/run=run", f"commits/run={SQL}"), REFUSED)
    yield (
        "table_folder_named_sql",
        Hostile(lambda case: case.write(f"routes/run={SQL}/lang=a/00000.parquet", "x"), HARMLESS),
    )
    # Texts of a model are whatever they are: they are shown, escaped, and no mask is made of what cannot be printed.
    yield "model_named_to_be_obeyed", Hostile(_model_said(SHOWN), HARMLESS, shown=True)
    exports = ("rise", "gap", "top-p", "top-k", "task", "random", "sql")
    yield (
        "model_named_for_a_terminal",
        Hostile(_model_said(TERMINAL), HARMLESS, {f"export-{name}": 1 for name in exports}, shown=True),
    )
    yield "model_named_without_end", Hostile(_model_said("x" * 10_000_000), REFUSED)
    yield "model_named_no_unicode", Hostile(_model_said("\ud800"), REFUSED)
    yield "fields_named_sql", Hostile(_fields_of_model({SQL: SQL, "'": '"', SCRIPT: 1}), HARMLESS, shown=True)
    yield "provenance_without_end", Hostile(_provenance({"who": "x" * 10_000_000}), HARMLESS)
    yield "provenance_no_unicode", Hostile(_provenance({"who": "\ud800", "\udfff": 1}), REFUSED)
    yield "provenance_no_unicode_without_copy", Hostile(_provenance({"who": "\ud800"}, copy=False), REFUSED)
    yield "corpus_of_languages_only", Hostile(_corpus_of_languages_only, HARMLESS, shown=True)
    yield "corpus_of_no_language", Hostile(_corpus({"languages": []}), HARMLESS, shown=True)
    yield "corpus_of_a_pivot_that_is_not_there", Hostile(_corpus({"pivot": "zzz_Latn"}), HARMLESS, shown=True)
    languages = [f"l{number}".translate(LETTERS) for number in range(10_000)]
    yield "corpus_of_10000_languages", Hostile(_corpus({"languages": languages}), HARMLESS, shown=True)
    yield "texts_named_to_be_obeyed", Hostile(_texts_said(SHOWN + SQL), HARMLESS, shown=True)
    yield "texts_named_for_a_terminal", Hostile(_texts_said(TERMINAL), HARMLESS, shown=True)


def _run_said(name: str) -> Callable[[Case], object]:
    return lambda case: case.fields(RUN, run=name)


def _run_file(name: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        case.fields(RUN, run=name)
        (case.store / RUN).rename(case.store / f"runs/{name}.json")
        for path in case.store.glob("commits/run=run/lang=*/*.json"):
            case.fields(str(path.relative_to(case.store)), run=name)

    return build


def _languages_said(name: str) -> Callable[[Case], object]:
    return lambda case: case.consistently(lambda record: record["corpus"].update(languages=["deu_Latn", name]))


def _pivot_said(name: str) -> Callable[[Case], object]:
    return lambda case: case.consistently(lambda record: record["corpus"].update(pivot=name))


def _commit_said(name: str) -> Callable[[Case], object]:
    return lambda case: case.fields(COMMIT, lang=name)


def _index_said(name: str) -> Callable[[Case], object]:
    def change(index: dict[str, Any]) -> None:
        for entry in index["entries"].values():
            entry["record"]["lang"] = name

    return lambda case: case.change(INDEX, change)


def _language_folder(name: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        case.fields(COMMIT, lang=name) if name.isprintable() else None
        for table in ("commits", "routes", "usage"):
            _move(case, f"{table}/run=run/lang=deu_Latn", f"{table}/run=run/lang={name}")

    return build


def _move(case: Case, path: str, to: str) -> None:
    (case.store / path).rename(case.store / to)


def _model_said(text: str) -> Callable[[Case], object]:
    return lambda case: case.consistently(lambda record: record["model"].update(id=text))


def _corpus(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.consistently(lambda record: record["corpus"].update(fields))


def _fields_of_model(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.consistently(lambda record: record["model"].update(fields))


def _provenance(fields: dict[str, Any], *, copy: bool = True) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        for path in (RUN, COPY):
            write_ascii(case.store / path, {**read_record(case.store / path), "provenance": fields})
        if not copy:
            case.remove(COPY)

    return build


def _corpus_of_languages_only(case: Case) -> None:
    def change(record: dict[str, Any]) -> None:
        record["corpus"] = {"languages": record["corpus"]["languages"]}

    case.consistently(change)


def _texts_said(text: str) -> Callable[[Case], object]:
    def change(table: pa.Table) -> pa.Table:
        import pyarrow as pa

        at = table.schema.get_field_index("text_id")
        names = pa.array([f"{text}{number}" for number in range(len(table))], table.schema.field(at).type)
        return table.set_column(at, table.schema.field(at), names)

    return lambda case: case.parquet("sequences", change)

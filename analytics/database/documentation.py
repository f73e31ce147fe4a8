"""What each SQL file is: its statement, and the documentation that stands in its header comment.

A header is a sentence that says what a row is, or what a function's value is, then `key: text` lines; `parameters:` and
`columns:` hold one `name: text` a line, indented; any other text goes on over lines that are indented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace import sql
from moetrace.store.errors import MoetraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SQL = Path(sql.__file__).parent
LISTS = ("parameters", "columns")
TEXTS = ("formula", "range", "units", "source", "needs")

_STATEMENT = re.compile(
    r"create or replace (?P<kind>view|table|macro) (?P<name>\w+)\s*"
    r"(?:\((?P<arguments>[^)]*)\)\s*as (?P<table>table\b)?)?"
)
_ARGUMENT = re.compile(r"(?P<name>\w+)(?:\s*:=\s*(?P<default>[^,]+))?(?:,|$)")
_LIST_ITEM = re.compile(r" {2}(?P<name>\w+): (?P<text>.+)")
_KEY = re.compile(r"(?P<key>\w+):(?: (?P<text>.+))?")


@dataclass(frozen=True)
class SqlFile:
    """One SQL file: a view, a table, a table macro whose plain view is the macro at its defaults, or a scalar function.

    - stage: the folder, in the order that data flows
    - kind: view | table | macro | function
    - row: what a row is, or a function's value
    - defaults: the arguments of a macro or function with their defaults as SQL, None where an argument has none; empty
      for views and tables; parameters describes them
    - columns: what the rows hold, in order; empty for a function
    """

    name: str
    stage: str
    kind: str
    sql: str
    row: str
    formula: str
    range: str
    units: str
    source: str
    needs: str
    defaults: dict[str, str | None]
    parameters: dict[str, str]
    columns: dict[str, str]

    @property
    def signature(self) -> str:
        """Return the name as one calls it: `jaccard(n := null)`, or the plain name of a view or table."""
        arguments = (name if default is None else f"{name} := {default}" for name, default in self.defaults.items())
        return f"{self.name}({', '.join(arguments)})" if self.kind in ("macro", "function") else self.name


@cache
def sql_files() -> dict[str, SqlFile]:
    """Return what every SQL file creates by name, in the order of the folders, by name within one."""
    return {found.name: found for found in _read_all()}


def views() -> dict[str, SqlFile]:
    """Return what a query can read from, by name: all but the functions."""
    return {name: found for name, found in sql_files().items() if found.kind != "function"}


def view(name: str) -> SqlFile:
    """Return one view, or raise UnknownNameError with the nearest names."""
    known = views()
    if name not in known:
        raise UnknownNameError.among("view", name, known, "moetrace")
    return known[name]


def in_dependency_order(found: Iterable[SqlFile]) -> list[SqlFile]:
    """Return the files so that each comes after those it reads from and those whose functions it calls."""
    by_name = {item.name: item for item in found}
    reads = {item.name: (_names_used(item) & by_name.keys()) - {item.name} for item in by_name.values()}
    return [by_name[name] for name in TopologicalSorter(reads).static_order()]


def parse(sql: str, stage: str, where: str) -> SqlFile:
    """Read one SQL file's text; raise MoetraceError naming `where` when its header or statement is not as agreed."""
    comment = [line.removeprefix("--").removeprefix(" ").rstrip() for line in _header_lines(sql)]
    statement = _STATEMENT.search(_statement(sql))
    if statement is None:
        raise MoetraceError(f"{where}: no `create or replace view | table | macro` statement")
    texts, lists = _entries(comment, where)
    return SqlFile(
        name=statement["name"],
        stage=stage,
        kind=_kind(statement),
        sql=sql,
        row=texts["row"],
        formula=texts.get("formula", ""),
        range=texts.get("range", ""),
        units=texts.get("units", ""),
        source=texts.get("source", ""),
        needs=texts.get("needs", ""),
        defaults=_defaults(statement),
        parameters=lists["parameters"],
        columns=lists["columns"],
    )


def _read_all() -> Iterator[SqlFile]:
    for file in sorted(SQL.glob("[0-9]*/*.sql")):
        where = f"sql/{file.parent.name}/{file.name}"
        found = parse(file.read_text(encoding="utf-8"), file.parent.name, where)
        if file.stem != found.name:
            raise MoetraceError(f"{where}: creates '{found.name}'; name the file {found.name}.sql")
        yield found


def _header_lines(sql: str) -> Iterator[str]:
    for line in sql.splitlines():
        if not line.startswith("--"):
            return
        yield line


def _statement(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))


def _kind(statement: re.Match[str]) -> str:
    return "function" if statement["kind"] == "macro" and not statement["table"] else statement["kind"]


def _defaults(statement: re.Match[str]) -> dict[str, str | None]:
    if statement["kind"] != "macro":
        return {}
    return {
        found["name"]: found["default"] and found["default"].strip()
        for found in _ARGUMENT.finditer(statement["arguments"])
    }


def _names_used(item: SqlFile) -> set[str]:
    """Return every name that a statement reads from or calls."""
    return {
        read or called
        for read, called in re.findall(r"\b(?:from|join)\s+(\w+)\b(?!\.)|\b(\w+)\(", _statement(item.sql))
    }


def _entries(comment: list[str], where: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    texts: dict[str, str] = {}
    lists: dict[str, dict[str, str]] = {name: {} for name in LISTS}
    key = "row"
    for line in comment:
        item, start = _LIST_ITEM.fullmatch(line), _KEY.fullmatch(line)
        if not line:
            continue
        if key in LISTS and item:
            lists[key][item["name"]] = item["text"]
        elif start and start["key"] in (*TEXTS, *LISTS):
            key = start["key"]
            texts[key] = start["text"] or ""
        elif key in LISTS:
            raise MoetraceError(f"{where}: `{line}` under `{key}:` is not `name: text`")
        else:
            texts[key] = f"{texts.get(key, '')} {line.strip()}".strip()
    if "row" not in texts:
        raise MoetraceError(f"{where}: the header does not begin with what a row is")
    return texts, lists

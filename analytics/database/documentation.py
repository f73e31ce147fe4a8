"""What each SQL file is: its statement, and the documentation that stands in its header comment.

A header is a sentence that says what a row is, then `key: text` lines; `parameters:` and `columns:` hold one
`name: text` a line, indented; any other text goes on over lines that are indented.
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
    r"create or replace (?P<kind>view|table|macro) (?P<name>\w+)\s*(?:\((?P<arguments>[^)]*)\)\s*as table\b)?"
)
_ARGUMENT = re.compile(r"(?P<name>\w+)\s*:=\s*(?P<default>[^,]+)")
_LIST_ITEM = re.compile(r" {2}(?P<name>\w+): (?P<text>.+)")
_KEY = re.compile(r"(?P<key>\w+):(?: (?P<text>.+))?")


@dataclass(frozen=True)
class View:
    """One SQL file: a view, a table, or a table macro whose plain view is the macro at its defaults.

    - stage: the folder, in the order that data flows
    - kind: view | table | macro
    - defaults: a macro's arguments with their defaults as SQL, empty otherwise; parameters describes them
    - columns: what the rows hold, in order
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
    defaults: dict[str, str]
    parameters: dict[str, str]
    columns: dict[str, str]

    @property
    def signature(self) -> str:
        """Return the name as one calls it: `jaccard(n := null)`, or the plain name of a view or table."""
        arguments = ", ".join(f"{name} := {default}" for name, default in self.defaults.items())
        return f"{self.name}({arguments})" if self.kind == "macro" else self.name


@cache
def views() -> dict[str, View]:
    """Return every view by name, in the order of the folders, by name within one."""
    return {view.name: view for view in _read_all()}


def view(name: str) -> View:
    """Return one view, or raise UnknownNameError with the nearest names."""
    if name not in views():
        raise UnknownNameError.among("view", name, views(), "moetrace")
    return views()[name]


def in_dependency_order(found: Iterable[View]) -> list[View]:
    """Return the views so that each comes after those it reads."""
    by_name = {item.name: item for item in found}
    reads = {
        item.name: {
            name for name in re.findall(r"\b(?:from|join)\s+(\w+)\b(?!\.)", _statement(item.sql)) if name in by_name
        }
        - {item.name}
        for item in by_name.values()
    }
    return [by_name[name] for name in TopologicalSorter(reads).static_order()]


def parse(sql: str, stage: str, where: str) -> View:
    """Read one SQL file's text; raise MoetraceError naming `where` when its header or statement is not as agreed."""
    comment = [line.removeprefix("--").removeprefix(" ").rstrip() for line in _header_lines(sql)]
    statement = _STATEMENT.search(_statement(sql))
    if statement is None:
        raise MoetraceError(f"{where}: no `create or replace view | table | macro` statement")
    texts, lists = _entries(comment, where)
    return View(
        name=statement["name"],
        stage=stage,
        kind=statement["kind"],
        sql=sql,
        row=texts["row"],
        formula=texts.get("formula", ""),
        range=texts.get("range", ""),
        units=texts.get("units", ""),
        source=texts.get("source", ""),
        needs=texts.get("needs", ""),
        defaults={found["name"]: found["default"].strip() for found in _ARGUMENT.finditer(_arguments(statement))},
        parameters=lists["parameters"],
        columns=lists["columns"],
    )


def _read_all() -> Iterator[View]:
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


def _arguments(statement: re.Match[str]) -> str:
    return (statement["arguments"] or "") if statement["kind"] == "macro" else ""


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

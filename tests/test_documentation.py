"""README.md, CONTRIBUTING.md and docs/: links, paths, imports, commands and options are what is really there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from typing import TYPE_CHECKING

import click
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import COMMANDS, moetrace
from tests.support.blocks import blocks
from tests.support.pages import PAGES, name_of
from tests.support.paths import PACKAGES, ROOT
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
DEVELOPMENT = ROOT / "docs" / "development.md"
LINK = re.compile(r"\[[^]]+\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.:<-])(?:" + "|".join((*PACKAGES, "tests", "docs", "src")) + r")/[\w./-]*")
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*moetrace ([a-z].*)$")
QUERY = re.compile(r"""(?:moetrace sql my-store (?:--scores \S+ )?|--query |store\.sql\()"([^"\n]+)\"""")
TARGET = re.compile(r"(?:^(?: {4})?|`)make ([a-z-]+)", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def examples(page: Path) -> Iterator[str]:
    yield from re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    """What follows the program's name in each command of a page."""
    for block in blocks(name_of(page), page.read_text()):
        if block.language in {"bash", "console"}:
            yield from (found[1] for line, _ in block.commands if (found := COMMAND.match(line)))


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    """By links from page to page; how many steps does not matter."""
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md" and "://" not in str(page):
            reached.add(page)
            links = (link.partition("#")[0] for link in LINK.findall(page.read_text()) if "://" not in link)
            ahead += [(page.parent / link).resolve() for link in links if link]
    assert set(LINKED) <= reached


def test_every_page_of_the_guides_is_on_the_first_page() -> None:
    """A reader who knows only docs/index.md finds them all; folders of pages may have a first page of their own."""
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    folders = {page.parent for page in linked}
    assert {page for page in LINKED if page.parent == ROOT / "docs" and page != index} <= linked
    assert {page.parent for page in LINKED} <= folders | {ROOT}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_that_is_named_exists(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert (ROOT / path.rstrip(".")).exists(), path


def test_the_tree_in_the_documentation_is_the_tree() -> None:
    listed = re.findall(r"^\| `([\w/]+)/` \|", DEVELOPMENT.read_text(), re.MULTILINE)
    folders = {
        str(path.parent.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.*")
        if path.suffix in {".py", ".sql"} and "__pycache__" not in path.parts
    }
    tests = {
        f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    top = {"src/moetrace", "docs", "tests"}
    assert sorted(listed) == sorted(folders | tests | top)


def test_the_first_page_has_the_folders_at_the_top() -> None:
    listed = re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*PACKAGES, "src/moetrace", "tests", "docs"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_examples_import_is_there(page: Path) -> None:
    """Doors are not opened: a name that needs torch is looked up in the list of its package, see test_doors.py."""
    for example in examples(page):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.Import):
                assert not any(alias.name.partition(".")[0] in {"moetrace", *PACKAGES} for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in {"moetrace", *PACKAGES}:
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    submodule = importlib.util.find_spec(f"{node.module}.{alias.name}") if is_package(module) else None
                    assert alias.name in dir(module) or submodule, f"from {node.module} import {alias.name}"


def is_package(module: object) -> bool:
    return hasattr(module, "__path__")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    for line in commands(page):
        words = line.partition("  #")[0].split()
        command, group = moetrace.get_command(click.Context(moetrace), words[0]), words[0]
        assert command, f"moetrace {words[0]}"
        if isinstance(command, click.Group):
            command, group = command.get_command(click.Context(command), words[1]), f"{words[0]} {words[1]}"
            assert command, f"moetrace {group}"
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words:
            if word.startswith("-"):
                assert word in options, f"moetrace {group} {word}"


def test_every_query_runs(tmp_path: Path) -> None:
    queries = {query for page in PAGES for query in QUERY.findall(page.read_text())}
    assert queries
    store = connect(write_world(tmp_path / "store", make_world(1, make_record())))
    for query in queries:
        store.sql(query).fetchall()


def test_every_command_is_documented() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert {name for name in COMMANDS if not re.search(rf"\bmoetrace {name}\b|`make {name}`", text)} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(TARGET.findall(page.read_text())) <= targets

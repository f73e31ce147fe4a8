"""docs/reference says what the code says."""

from __future__ import annotations

import ast
import inspect
import json
import re
from typing import TYPE_CHECKING

import click
import pytest

import moetrace
from moetrace.cli.main import COMMANDS
from moetrace.cli.main import moetrace as program
from moetrace.store.mask import MaskError, read_mask
from tests.reference_pages import commands, fields, markdown, names
from tests.reference_pages.pages import FOLDER, PARTS, WHOLE, expected
from tests.support.paths import product_modules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize("page", [*WHOLE, *PARTS])
def test_each_page_is_what_the_generator_writes(page: str) -> None:
    assert (FOLDER / f"{page}.md").read_text(encoding="utf-8") == expected(page), "run `make reference`"


def test_every_page_and_program_of_the_reference_is_listed() -> None:
    listed = set(re.findall(r"\]\(([\w.-]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in FOLDER.iterdir() if path.suffix in {".md", ".py"}} - {"README.md"}


def every_command(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield inner.command_path, command
        if isinstance(command, click.Group):
            yield from every_command(command, inner)


def test_every_option_of_every_command_is_on_the_page_under_its_command() -> None:
    sections = re.split(r"^#{3,4} (moetrace .+)$", commands.page(), flags=re.MULTILINE)[1:]
    described = dict(zip(sections[::2], sections[1::2], strict=True))
    found = dict(every_command(program, click.Context(program, info_name="moetrace")))
    assert found.keys() == described.keys()
    assert {f"moetrace {name}" for name in COMMANDS} <= found.keys()
    for path, command in found.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert re.search(rf"`.*{re.escape(parameter.opts[-1])}\b.*` \|", described[path]), parameter.opts


def test_the_environment_variables_on_the_page_are_those_that_the_code_reads() -> None:
    read = {
        node.value
        for path in product_modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and re.fullmatch(r"MOETRACE_[A-Z_]+", str(node.value))
    }
    assert read == commands.ENVIRONMENT.keys()


def test_every_offered_name_is_on_the_page_with_its_arguments() -> None:
    """Against the live objects of what needs neither torch nor vLLM; the page itself imports nothing."""
    for package in ("moetrace", "moetrace.store", "moetrace.analytics.metrics", "moetrace.analytics.uncertainty"):
        module = __import__(package, fromlist=["*"])
        offered = {found.name: found for found in names.offered(package)}
        assert offered.keys() == set(module.__all__)
        for name, found in offered.items():
            if name == "apply_mask" or not isinstance(found.definition, ast.FunctionDef):
                continue
            arguments = found.definition.args
            written = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            variadic = [each for each in (arguments.vararg, arguments.kwarg) if each]
            actual = inspect.signature(inspect.unwrap(getattr(module, name))).parameters
            assert {each.arg for each in (*written, *variadic)} == set(actual), name
    assert {"apply_mask", "traced"} <= set(moetrace.__all__)


def test_text_that_markdown_would_take_for_markup_is_shown_as_it_is() -> None:
    assert markdown.escaped("a * b of <dataset>, `x * y`") == r"a \* b of \<dataset>, `x * y`"
    assert markdown.cell("int64 [L, E]\n or a | b") == r"int64 \[L, E\] or a \| b"


def test_a_list_right_below_a_paragraph_is_a_list_everywhere() -> None:
    assert markdown.prose("Text:\n- one\n  goes on\n- two\n\n    code") == (
        "Text:\n\n- one\n  goes on\n- two\n\n```python\ncode\n```"
    )


def example_of_a_mask() -> str:
    (found,) = re.findall(r"^```json\n(.*?)^```", (FOLDER / "mask-format.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_example_of_a_mask_is_one(tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    path.write_text(example_of_a_mask())
    assert len(read_mask(path)["experts"]) == 2


def paths_of(value: object, place: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"{place}{name}"
            yield from paths_of(item, f"{place}{name}.")
    elif isinstance(value, list):
        for item in value:
            yield from paths_of(item, f"{place.removesuffix('.')}[].")


def test_what_the_table_of_fields_calls_required_is(tmp_path: Path) -> None:
    """Take a field out of the example: it must be refused where, and only where, the table says so."""
    whole = json.loads(example_of_a_mask())
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| .*? \| (required|optional) \|", fields.mask_fields(), re.MULTILINE)
    assert set(paths_of(whole)) <= {name for name, _ in rows}
    path = tmp_path / "mask.json"
    for name, needed in rows:
        if name not in set(paths_of(whole)):
            continue
        changed = json.loads(example_of_a_mask())
        inside = changed
        *parents, last = name.replace("[]", ".0").split(".")
        for parent in parents:
            inside = inside[int(parent) if parent.isdigit() else parent]
        del inside[last]
        path.write_text(json.dumps(changed))
        if needed == "required":
            with pytest.raises(MaskError):
                read_mask(path)
        else:
            read_mask(path)

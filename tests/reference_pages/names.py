"""docs/reference/python.md: what packages offer, from signatures and docstrings; nothing of the product is imported.

Names that need torch or vLLM are read as text like all others.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tests.reference_pages.markdown import prose
from tests.support.paths import product_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = {  # what is offered, and what it needs beside moetrace itself
    "moetrace": "`traced`, `steered` and `tap_arguments` need vLLM, `apply_mask` needs the extra `train`.",
    "moetrace.store": "",
    "moetrace.analytics.metrics": "",
    "moetrace.analytics.selection": "",
    "moetrace.analytics.uncertainty": "",
    "moetrace.analytics.plots": "",
    "moetrace.tracer.training": "",
}

WIDEST = 100  # of a signature on one line
INTRODUCTION = (
    "What `import moetrace` and these packages offer; modules that are not named here are private and may move. Errors "
    "are `MoetraceError` or a class of it, listed under [moetrace.store](#moetracestore)."
)
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Name:
    """A name that a package offers: where it is defined, and its definition; None for a module."""

    name: str
    module: str
    definition: Definition | None


def page() -> str:
    """Return the page."""
    parts = [
        "# Python API",
        INTRODUCTION,
    ]
    for package, needs in PACKAGES.items():
        parts += [f"## {package}", prose(_docstring(_tree(package)))]
        parts += [needs] if needs else []
        for found in offered(package):
            parts += _described(found, package)
    return "\n\n".join(parts) + "\n"


def offered(package: str) -> list[Name]:
    """Return the names of a package's `__all__`, sorted, each with its definition."""
    tree = _tree(package)
    names = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    )
    imported = _imports(tree)
    return [_found(name, imported.get(name, package)) for name in sorted(names)]


def _found(name: str, module: str) -> Name:
    for node in _tree(module).body:
        if isinstance(node, Definition) and node.name == name:
            return Name(name, module, node)
    if f"{module}.{name}" in product_modules():
        return Name(name, f"{module}.{name}", None)
    raise LookupError(f"{module} defines no {name}")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(product_modules()[module].read_text(encoding="utf-8"))


def _imports(tree: ast.Module) -> dict[str, str]:
    """Return for each name that a module imports, under TYPE_CHECKING too, the module that has it."""
    return {
        alias.asname or alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _described(found: Name, package: str) -> Iterator[str]:
    yield f"### {package.rpartition('.')[2]}.{found.name}"
    if found.definition is None:
        yield f"The module [{found.module}](#{found.module.replace('.', '')})."
    elif isinstance(found.definition, ast.FunctionDef):
        yield _code(_signature(found.definition))
        yield prose(_docstring(found.definition))
    else:
        yield from _class(found.definition, found.module)


def _class(definition: ast.ClassDef, module: str) -> Iterator[str]:
    bases = ", ".join(ast.unparse(base) for base in definition.bases)
    yield _code(f"class {definition.name}({bases})" if bases else f"class {definition.name}")
    yield prose(_docstring(definition))
    if fields := _fields(definition):
        yield "Fields: " + ", ".join(f"`{field}`" for field in fields) + "."
    for member in _members(definition, module):
        yield f"**`{_signature(member, definition.name)}`**: {prose(_docstring(member))}"


def _fields(definition: ast.ClassDef) -> list[str]:
    """Return the fields of a dataclass or a TypedDict, with their types and defaults."""
    return [
        ast.unparse(node).replace("\n", " ")
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_")
    ]


def _members(definition: ast.ClassDef, module: str) -> list[ast.FunctionDef]:
    """Return the constructor, where it is documented, and public methods of a class, then those of its bases."""
    own = [
        node
        for node in definition.body
        if isinstance(node, ast.FunctionDef)
        and (not node.name.startswith("_") or node.name == "__init__")
        and ast.get_docstring(node)
    ]
    known = {node.name for node in own}
    imported = _imports(_tree(module))
    for base in definition.bases:
        if isinstance(base, ast.Name) and imported.get(base.id) in product_modules():
            inherited = _found(base.id, imported[base.id])
            if isinstance(inherited.definition, ast.ClassDef):
                own += [each for each in _members(inherited.definition, inherited.module) if each.name not in known]
    return sorted(own, key=lambda node: node.name != "__init__")


def _signature(function: ast.FunctionDef, owner: str = "") -> str:
    """Return how a function is called, or a property with its type; `owner`: the class that it is of."""
    decorators = {ast.unparse(each) for each in function.decorator_list}
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    if decorators & {"property", "cached_property"}:
        return f"{function.name}{returns.replace(' ->', ':')}"
    arguments = _arguments(function)
    if owner and "staticmethod" not in decorators:
        del arguments[0]
    if function.name == "__init__":
        return f"{owner}({', '.join(arguments)})"
    if owner and "classmethod" in decorators:
        return f"{owner}.{function.name}({', '.join(arguments)}){returns}"
    whole = f"{function.name}({', '.join(arguments)}){returns}"
    if owner or len(whole) <= WIDEST:
        return whole
    return f"{function.name}(\n" + "".join(f"    {each},\n" for each in arguments) + f"){returns}"


def _arguments(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    found = [_argument(each, default) for each, default in zip(positional, defaults, strict=True)]
    if arguments.vararg:
        found.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        found.append("*")
    found += [_argument(each, value) for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return [*found, f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else found


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")


def _docstring(node: ast.Module | Definition) -> str:
    text = ast.get_docstring(node, clean=True)
    if text is None:
        raise LookupError(f"{getattr(node, 'name', 'a module')} has no docstring")
    return inspect.cleandoc(text)


def _code(text: str) -> str:
    return f"```py\n{text}\n```"

"""Every message of an error that moetrace raises, from the code, as it is printed: what varies in capitals or as `…`.

`python -m tests.reference_pages.messages` lists them with the places that raise them.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

from tests.support.paths import ROOT, product_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VARIES = "…"
NAMED = {  # what is said of a value by the name that it has in the code
    "RUN": {"run", "record.run", "self.run", "self._run", "texts.run", "found.name", "run.name", "commit.run"},
    "STORE": {
        "self.url",
        "store.url",
        "storage",
        "self.storage",
        "self._storage",
        "catalog.url",
        "opened.url",
        "url",
        "store",
    },
    "LANG": {"lang", "shard.lang", "counts.lang", "record.lang", "planned.lang", "language.lang"},
    "PATH": {
        *("path", "self.path", "file", "output", "archive", "folder", "entry.path", "found.path", "first.path"),
        *("file.path", "source.path", "query_file", "checkpoint", "self._path", "index.data.path", "original.folder"),
    },
    "MODEL": {"facts.id", "self.facts.id", "model", "loaded.id"},
    "CORPUS": {
        "self.source",
        "source",
        "corpus.source",
        "self._corpus.source",
        "self.corpus.source",
        "spec",
        "self.spec",
    },
    "WHERE": {"where", "at"},
}
PLACEHOLDERS = {expression: name for name, expressions in NAMED.items() for expression in expressions}
ROOT_ERROR = "MoetraceError"
TEMPLATES = {"moetrace.tracer.corpus.fields"}  # whose `source` is a template's text
BESIDE = {"JsonError"}  # what an error that is told holds in brackets
REASONS = ("moetrace.store.format.record_schemas",)  # whose ValueErrors stand in brackets, too
LISTED = {("missing_inputs", "found.append")}  # sentences that are told of an empty result
YIELDED = "moetrace.store.verify"  # whose problems `moetrace verify` prints
DEEPEST = 3  # functions and variables that are looked through
MOST = 24  # ways of one message to read

_TOGETHER = re.compile(rf"{VARIES}(?:{VARIES}|PATH:)+")


@dataclass(frozen=True)
class Function:
    """A function with the module and class that it stands in."""

    module: str
    owner: str
    node: ast.FunctionDef


class Code:
    """The modules of the product, as syntax."""

    def __init__(self) -> None:
        self.trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in product_modules().items()}

    @cached_property
    def errors(self) -> set[str]:
        """The names of the classes of errors."""
        bases = {
            node.name: {ast.unparse(base) for base in node.bases}
            for tree in self.trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
        }
        found = {ROOT_ERROR, *BESIDE}
        while more := {name for name, above in bases.items() if above & found} - found:
            found |= more
        return found

    @cached_property
    def functions(self) -> list[Function]:
        """Every function that stands in a module or in a class."""
        return [
            Function(module, node.name if isinstance(node, ast.ClassDef) else "", each)
            for module, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef))
            for each in node.body
            if isinstance(each, ast.FunctionDef)
        ]

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str], Function]:
        return {(each.module, each.owner, each.node.name): each for each in self.functions}

    @cached_property
    def _imports(self) -> dict[str, dict[str, str]]:
        return {
            module: {
                alias.asname or alias.name: str(node.module)
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module in self.trees
                for alias in node.names
            }
            for module, tree in self.trees.items()
        }

    def home(self, name: str, module: str) -> str:
        """The module that a module imports a name from, itself where it does not."""
        return self._imports[module].get(name, module)

    def called(self, name: str, inside: Function) -> Function | None:
        """The function of the product that a call by this name reaches from another, where that can be said."""
        method = name.removeprefix("self.").removeprefix("cls.")
        if method != name:
            return self._by_name.get((inside.module, inside.owner, method))
        return self._by_name.get((self.home(name, inside.module), "", name))

    def constant(self, name: str, module: str) -> ast.expr | None:
        """The value of a constant of a module, or of the one that it imports it from."""
        for node in self.trees[self.home(name, module)].body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and target.id == name and isinstance(node, ast.Assign):
                return node.value
        return None


def messages() -> dict[str, set[str]]:
    """Return every message with the places that raise it: `store/errors.py:12`."""
    code, found = Code(), defaultdict[str, set[str]](set)
    files = {name: path.relative_to(ROOT) for name, path in product_modules().items()}
    for function in code.functions:
        for line, text in _raised(code, function):
            shown = _TOGETHER.sub(lambda run: "PATH:" if run[0].endswith(":") else VARIES, text)
            found[" ".join(shown.split())].add(f"{files[function.module]}:{line}")
    return dict(sorted(found.items()))


def worded(message: str) -> bool:
    """Tell whether a message has words of its own: nobody could find what is made of values alone."""
    words = re.findall(r"[A-Za-z]+", re.sub(rf"\b(?:{'|'.join(NAMED)})\b", "", message))
    return len(words) > 1 or any(len(word) > 2 for word in words)


def _raised(code: Code, function: Function) -> Iterator[tuple[int, str]]:
    for node in ast.walk(function.node):
        if isinstance(node, ast.Call) and node.args and _is_error(code, node, function):
            for text in _texts(code, node.args[0], function, 0):
                yield node.lineno, text
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "UnknownNameError.among":
            yield from ((node.lineno, text) for text in _among(code, node, function))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem" and len(node.args) > 1:
            yield from ((node.lineno, text) for text in _texts(code, node.args[1], function, 0))
        elif isinstance(node, ast.Call) and (function.node.name, ast.unparse(node.func)) in LISTED:
            yield from ((node.lineno, text) for text in _texts(code, node.args[0], function, 0))
        elif isinstance(node, ast.Yield) and function.module.startswith(YIELDED):
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            for part in parts:
                if part is not None and _is_literal(part):
                    yield from ((node.lineno, text) for text in _texts(code, part, function, 0))


def _is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_error(code: Code, call: ast.Call, function: Function) -> bool:
    if isinstance(call.func, ast.IfExp):
        return ast.unparse(call.func.body) in code.errors
    name = ast.unparse(call.func)
    if function.module in REASONS and name == "ValueError":
        return True
    return name in code.errors or name == "self.error" or (name == "cls" and function.owner in code.errors)


def _among(code: Code, call: ast.Call, function: Function) -> Iterator[str]:
    kinds, wheres = (_texts(code, call.args[at], function, 0) for at in (0, 3))
    for kind, where in product(kinds, wheres):
        yield f"{where} has no {kind} '{VARIES}'; did you mean {VARIES}?"


def _texts(code: Code, node: ast.expr, function: Function, depth: int) -> list[str]:
    """Return what an expression may be as text, every way that the code says it; what varies as a placeholder."""
    constant = (isinstance(node, ast.Name) and node.id.isupper()) or (isinstance(node, ast.Constant) and depth > 0)
    ways = (way if constant or _has_words(way) or _joins(way) else VARIES for way in _ways(code, node, function, depth))
    found = list(dict.fromkeys(ways))
    return found if 0 < len(found) <= MOST else [_placeholder(node, function)]


def _has_words(text: str) -> bool:
    return text != "None" and bool(re.search(r"[a-z]{2}", text))


def _joins(text: str) -> bool:
    """Tell whether a text is only what stands between others, such as `: `."""
    return not re.search(rf"[\w{VARIES}]", text)


def _ways(code: Code, node: ast.expr, function: Function, depth: int) -> Iterable[str]:
    found: Iterable[str] = []
    if isinstance(node, ast.Constant):
        found = [str(node.value)]
    elif isinstance(node, ast.JoinedStr):
        found = ["".join(ways) for ways in product(*(_part(code, part, function, depth) for part in node.values))]
    elif isinstance(node, ast.BinOp) and _is_text(node):
        sides = [_texts(code, side, function, depth) for side in (node.left, node.right)]
        found = ["".join(ways) for ways in product(*sides)]
    elif isinstance(node, ast.IfExp):
        found = [way for value in (node.body, node.orelse) for way in _texts(code, value, function, depth)]
    elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        found = [way for value in node.values for way in _texts(code, value, function, depth)]
    elif isinstance(node, ast.Name) and depth < DEEPEST:
        found = _of_name(code, node, function, depth)
    elif isinstance(node, ast.Call) and depth < DEEPEST and (called := code.called(ast.unparse(node.func), function)):
        found = _returned(code, called, depth)
    return found


def _is_text(node: ast.expr) -> bool:
    """Tell whether an expression is texts that are put together."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and (_is_text(node.left) or _is_text(node.right))
    return _is_literal(node)


def _part(code: Code, part: ast.expr, function: Function, depth: int) -> list[str]:
    if not isinstance(part, ast.FormattedValue):
        return [str(part.value)] if isinstance(part, ast.Constant) else [VARIES]
    found = _texts(code, part.value, function, depth)
    return [each if each == "" else f"'{each}'" for each in found] if part.conversion == ord("r") else found


def _of_name(code: Code, node: ast.Name, function: Function, depth: int) -> Iterable[str]:
    """Return what a variable of the function or a constant may say; nothing where it is no text."""
    if node.id in PLACEHOLDERS and node.id not in {"where", "place"}:
        return []
    assigned = [
        each
        for each in _assigned(function.node, node.id)
        if _says(each) and not (depth and node.id in {name.id for name in ast.walk(each) if isinstance(name, ast.Name)})
    ]
    constant = code.constant(node.id, function.module) if node.id.isupper() else None
    values = [*assigned, *([constant] if isinstance(constant, (ast.Constant, ast.JoinedStr)) else [])]
    return [way for value in values for way in _texts(code, value, function, depth + 1)]


def _assigned(function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for one, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(one, ast.Name) and one.id == name:
                            yield value


def _says(value: ast.expr) -> bool:
    """Tell whether a value is words of the code's own, or comes of a function that may return some."""
    return isinstance(value, (ast.IfExp, ast.Call)) or _is_text(value)


def _returned(code: Code, called: Function, depth: int) -> Iterable[str]:
    """Return what a function returns, where it says that it returns a text."""
    if called.node.returns is None or not ast.unparse(called.node.returns).startswith("str"):
        return []
    returned = (node.value for node in ast.walk(called.node) if isinstance(node, ast.Return))
    values = [value for value in returned if value is not None and _says(value)]
    return [way for value in values for way in _texts(code, value, called, depth + 1)]


def _placeholder(node: ast.expr, function: Function) -> str:
    named = PLACEHOLDERS.get(ast.unparse(node), VARIES)
    return VARIES if function.module in TEMPLATES and named == "CORPUS" else named


if __name__ == "__main__":
    for message, places in messages().items():
        print(f"{message}    [{', '.join(sorted(places))}]")  # noqa: T201

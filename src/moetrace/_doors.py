"""Names that a package offers and imports only when they are asked for, so that no import costs what nobody uses."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def doors(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package: `modules` says for each name which module of it has that name.

    What is offered may be a module of a package. Both are what PEP 562 calls, for an attribute that a module does not
    have and for `dir` of it.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package} has no attribute {name}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        if hasattr(module, "__path__") and not hasattr(module, name):
            return importlib.import_module(f"{module.__name__}.{name}")
        return getattr(module, name)

    def listed() -> list[str]:
        return sorted(modules)

    return find, listed

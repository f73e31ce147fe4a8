"""Products of small matrices, many of them: threads of the linear algebra library would only wait for each other."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def on_one_thread() -> AbstractContextManager[object]:
    """Return a context in which a product of matrices takes one thread of this process."""
    limited: AbstractContextManager[object] = _libraries().limit(limits=1)
    return limited


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()

"""An engine that fails while it runs texts: what vLLM raised is told apart from what moetrace found wrong itself."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.tracer.engine.start import what_it_says

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)


class EngineFailedError(MoetraceError):
    """vLLM raised something while it ran texts; the engine is of no use any more, and its texts are lost.

    - why: the first line of what was raised
    - shards: the keys of the shards that were under way
    """

    def __init__(self, why: str, shards: tuple[str, ...] = ()) -> None:
        super().__init__(f"vLLM failed ({why}); moetrace -v shows more")
        self.why, self.shards = why, shards


@contextmanager
def engine_failures(under_way: Mapping[str, object]) -> Iterator[None]:
    """Make an EngineFailedError of what vLLM raises in here; what moetrace raises on purpose passes as it is.

    under_way: the shards of which texts are in the engine, by key
    """
    try:
        yield
    except MoetraceError:
        raise
    except Exception as error:
        log.debug("vLLM failed", exc_info=True)
        raise EngineFailedError(what_it_says(error), tuple(under_way)) from error

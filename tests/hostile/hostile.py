"""What a hostile store is: what was done to a good one, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.hostile.case import Case

REFUSED = "refused"
ROLLUPS = "rollups"
TABLES = "tables"
BESIDE = "beside"
HARMLESS = "harmless"

Expected = Literal["refused", "rollups", "tables", "beside", "harmless"]


@dataclass(frozen=True)
class Hostile:
    """A hostile store.

    expect, what every command must do:
    - refused: none that reads records says anything of the store, and `verify` fails
    - rollups: as refused, but for what reads records only
    - tables: `verify` fails; the others fail, or answer as they do of the good store
    - beside: `verify` fails; the others answer as they do of the good store
    - harmless: every command answers as it does of the good store
    but: exit codes of single commands that differ, None where both are right; `shown`: the store says other things
    than the good one, by design, so that answers are not compared.
    """

    build: Callable[[Case], object]
    expect: Expected
    but: Mapping[str, int | None] = field(default_factory=dict)
    shown: bool = False

"""What a selection of experts is. Masks and the files that trainers read are made from it alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class SelectionError(MoetraceError):
    """The experts that were asked for cannot be selected from this run."""


@dataclass(frozen=True)
class SelectedExpert:
    """One expert of a selection, chosen or just missed, and why.

    - role: specific (to the targets), shared (among the languages) or task
    - score: what it was ranked by; specificity and overlap are the `rise` metrics behind it
    - reason: the same in words, for people; masks do not carry it
    """

    layer: int
    expert: int
    role: str
    zone: str | None = None
    score: float | None = None
    specificity: float | None = None
    overlap: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Selection:
    """What a strategy chose.

    - targets: the languages it chose for; languages: those it looked at, targets included; tokens: traced of those
    - parameters: the strategy's settings, as the mask records them
    - experts: ascending by layer, then expert
    - zones: the decoder layers of each zone, where the strategy has zones
    - missed: the experts that would have been chosen next, of each zone, layer or kind that the strategy fills
    """

    strategy: str
    run: str
    targets: tuple[str, ...]
    languages: tuple[str, ...]
    tokens: int
    parameters: Mapping[str, Any]
    experts: tuple[SelectedExpert, ...]
    zones: Mapping[str, tuple[int, ...]]
    missed: tuple[SelectedExpert, ...] = ()


def by_layer_and_expert(experts: Iterable[SelectedExpert]) -> tuple[SelectedExpert, ...]:
    """Return experts ascending by layer, then expert."""
    return tuple(sorted(experts, key=lambda item: (item.layer, item.expert)))

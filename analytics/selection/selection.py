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
    - count: routing decisions of the targets, pooled, that went to it (of all languages looked at where there is no
      target); None where nobody knows, or where counts are nominal
    - reason: the same in words, for people; masks do not carry it
    """

    layer: int
    expert: int
    role: str
    zone: str | None = None
    score: float | None = None
    count: int | None = None
    specificity: float | None = None
    overlap: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Load:
    """The share of routing decisions, of all MoE layers, that meet a chosen expert, 0 to 1.

    - target: of the decisions of the targets, pooled; None without a target, and where the run has none of its usage
    - others: of those of the other languages that were looked at, pooled: of all others of the run where only the
      targets were looked at; None where there are none
    """

    target: float | None = None
    others: float | None = None


@dataclass(frozen=True)
class Selection:
    """What a strategy chose.

    - targets: the languages it chose for; languages: those it looked at, targets included; tokens: traced of those
    - parameters: the strategy's settings, as the mask records them
    - experts: ascending by layer, then expert
    - zones: the decoder layers of each zone, where the strategy has zones
    - missed: the experts that would have been chosen next, of each zone, layer or kind that the strategy fills
    - load: how much of the languages' routing the chosen experts do
    - notes: what whoever asked should be told besides, a line each; masks do not carry it
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
    load: Load = Load()
    notes: tuple[str, ...] = ()


def by_layer_and_expert(experts: Iterable[SelectedExpert]) -> tuple[SelectedExpert, ...]:
    """Return experts ascending by layer, then expert."""
    return tuple(sorted(experts, key=lambda item: (item.layer, item.expert)))

"""What is compared: a model as it is, under interventions, with trained experts, another checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moetrace.tracer.steering.choice import SteeredLanguages

if TYPE_CHECKING:
    from collections.abc import Callable

    from moetrace.store.intervention import Intervention

BASELINE, INTERVENTION, CONTROL, EXPERTS, MODEL = "baseline", "intervention", "control", "experts", "model"


@dataclass(frozen=True)
class Arm:
    """One way in which a task is answered.

    kind: baseline, intervention, control, experts or model; steered: the intervention of each language; of, control,
    seed: of a control, which arm it is for, what it holds equal (random, load, outside), and its draw
    """

    name: str
    kind: str
    steered: SteeredLanguages = field(default_factory=SteeredLanguages)
    of: str | None = None
    control: str | None = None
    seed: int | None = None

    def controlled(self, control: str, seed: int, make: Callable[[Intervention], Intervention]) -> Arm:
        """Return the control of this arm in which every intervention is what `make` makes of it."""
        by_language = {lang: make(one) for lang, one in self.steered.by_language.items()}
        default = None if self.steered.default is None else make(self.steered.default)
        return Arm(
            f"{self.name}.{control}-{seed}", CONTROL, SteeredLanguages(default, by_language), self.name, control, seed
        )

    def record(self) -> dict[str, Any]:
        """Return what the results keep of it."""
        of = {name: getattr(self, name) for name in ("of", "control", "seed") if getattr(self, name) is not None}
        return {"name": self.name, "kind": self.kind, **of, "interventions": self.steered.record()}

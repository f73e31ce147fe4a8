"""What is done to the task experts of English."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.store.intervention import Intervention, intervention_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.selection.selection import SelectedExpert

LAMBDAS = (0.25, 0.5, 1.0, 2.0, 4.0)


def interventions(experts: Sequence[SelectedExpert]) -> list[Intervention]:
    """Return the experts promoted, shifted by each lambda, and suppressed."""
    cells = [{"layer": item.layer, "expert": item.expert} for item in experts]

    def made(name: str, mode: str, **more: Any) -> Intervention:
        steps = [{"mode": mode, "experts": cells, **more}]
        return intervention_of({"format": "moetrace-intervention", "version": 1, "name": name, "steps": steps}, name)

    soft = [made(f"soft {value:g}".replace(" ", "-"), "soft", **{"lambda": value}) for value in LAMBDAS]
    return [made("suppress", "suppress"), *soft, made("promote", "promote")]

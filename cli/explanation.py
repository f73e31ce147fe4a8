"""What `--explain` prints of a selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.cli.table import aligned
from moetrace.cli.terminal import printable

if TYPE_CHECKING:
    from moetrace.analytics.selection.selection import Selection


def explanation(selection: Selection) -> str:
    """Return what was chosen and what just missed, as two tables, the load, and what else there is to tell."""
    columns = [
        name
        for name in ("layer", "expert", "role", "zone", "score", "count", "specificity", "overlap", "reason")
        if any(getattr(item, name) is not None for item in selection.experts)
    ]
    parts = [f"Chosen: {len(selection.experts)} experts"]
    parts.append(aligned(columns, [[getattr(item, name) for name in columns] for item in selection.experts]))
    if selection.missed:
        parts.append("\nJust missed")
        parts.append(aligned(columns, [[getattr(item, name) for name in columns] for item in selection.missed]))
    whose = {"the target": selection.load.target, "the other languages": selection.load.others}
    loads = [f"{share:.4f} of {name}" for name, share in whose.items() if share is not None]
    if loads:
        parts.append(f"\nLoad, the share of routing decisions that meet a chosen expert: {', '.join(loads)}")
    parts += [f"\n{printable(note)}" for note in selection.notes]
    return "\n".join(parts)

"""What a storm of kills did, counted, and its table."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.phases import PHASES

VARYING = re.compile(
    r"[0-9a-f]{8,}|\d+|(?<=lang=)\w+|\b[a-z]\w+_Latn\b|(?<=: )(sequences|tokens|routes|profiles|usage)(?=/)"
)


@dataclass
class Tally:
    """Counts over all rounds; `wrong` are its failures by kind and by what was said, names and numbers left out."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)  # by place and phase
    work: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, Counter[str]] = field(
        default_factory=lambda: {kind: Counter() for kind in ("lost", "doubled", "false alarms", "failures")}
    )
    failed: list[str] = field(default_factory=list)  # rounds, and where each is kept

    @property
    def killed(self) -> int:
        return self.kills.total()

    def went_wrong(self, kind: str, what: str) -> None:
        self.wrong[kind][VARYING.sub("#", what)] += 1

    @property
    def failures(self) -> int:
        return sum(found.total() for found in self.wrong.values())

    def table(self) -> str:
        """Return what happened as text."""
        places = sorted({place for place, _ in self.kills})
        lines = ["killed while".ljust(24) + "".join(place.rjust(10) for place in places)]
        lines += [
            phase.ljust(24) + "".join(str(self.kills[place, phase]).rjust(10) for place in places) for phase in PHASES
        ]
        totals = [sum(self.kills[place, phase] for phase in PHASES) for place in places]
        lines += ["all".ljust(24) + "".join(str(total).rjust(10) for total in totals), ""]
        lines += [f"{name.ljust(24)}{count:10d}" for name, count in self.work.items()]
        for kind, found in self.wrong.items():
            lines.append(f"{kind.ljust(24)}{found.total():10d}")
            lines += [f"    {count} x {what}" for what, count in found.most_common(12)]
        return "\n".join([*lines, *(f"failed: {what}" for what in self.failed)])

"""A claim, what was measured of it, and the verdict by a rule that was written down first.

A shape over depth holds if the 95 % interval of its contrast lies on the claimed side of 0, and does not hold if it
lies on the other. A correlation holds if it has the claimed sign with p below .05, beside the covariates where there
are some, and does not hold if it has the other sign with p below .05. A claim of several parts holds if all do, and
does not hold if any does not. Everything else cannot be told here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moetrace.analytics.uncertainty.intervals import interval_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from tests.experiments.claims.correlation import Correlation

    Array = npt.NDArray[np.float64]

Verdict = Literal["holds", "does not hold", "cannot be told here"]
LEVEL = 0.05


@dataclass(frozen=True)
class Contrast:
    """A difference between layers, claimed to be above 0, with its 95 % interval."""

    name: str
    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.name}: {self.value:+.4f} ({self.lower:+.4f} to {self.upper:+.4f})"

    @property
    def verdict(self) -> Verdict:
        """See the module."""
        if self.lower > 0:
            return "holds"
        return "does not hold" if self.upper < 0 else "cannot be told here"


def intervals(values: Array, replicates: Array) -> list[list[float]]:
    """Return the lower ends and the upper ends of the basic intervals of values [layers], replicates [R, layers]."""
    ends = [interval_of("basic", one, each, 1 - LEVEL) for one, each in zip(values, replicates.T, strict=True)]
    return [list(end) for end in zip(*ends, strict=True)]


def contrast(name: str, value: float, replicates: Array) -> Contrast:
    """Return a contrast with the basic bootstrap interval of its replicates [R]."""
    return Contrast(name, float(value), *interval_of("basic", value, replicates, 1 - LEVEL))


def of_correlation(found: Correlation, sign: int) -> Verdict:
    """Return the verdict on a correlation that is claimed to have a sign."""
    if found.p >= LEVEL:
        return "cannot be told here"
    return "holds" if found.rho * sign > 0 else "does not hold"


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a claim of several parts: see the module."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if set(verdicts) == {"holds"} else "cannot be told here"


def evidence(
    claim: str, source: str, corpus: str, verdict: Verdict, said: Sequence[str], **numbers: Any
) -> dict[str, Any]:
    """Return a claim's entry in the results: `said` are the sentences of what was measured, `numbers` the raw ones."""
    return {
        "claim": claim,
        "source": source,
        "corpus": corpus,
        "verdict": verdict,
        "measured": list(said),
        "numbers": plain(numbers),
    }


def plain(value: Any) -> Any:
    """Return numbers as JSON has them, of five significant digits."""
    if hasattr(value, "__dataclass_fields__"):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else float(f"{float(value):.5g}")
    return int(value) if isinstance(value, np.integer) else value

"""How many examples a property test tries, in the measure of the hypothesis profile that is chosen.

`HYPOTHESIS_PROFILE=quick` or `--hypothesis-profile quick` chooses another than `ci`; tests/conftest.py has them all.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

FULL = 100  # examples of the profile that tries as many as tests ask for


def register_profiles() -> None:
    """Make the profiles known: `ci` tries as many examples as tests ask for, `quick` a tenth of them."""
    slow = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("ci", max_examples=FULL, **slow)
    settings.register_profile("quick", max_examples=FULL // 10, **slow)


def examples(number: int) -> settings:
    """Let a property test try so many examples under `ci`, and its share of them, but two at least, under another."""
    return settings(max_examples=max(2, number * settings().max_examples // FULL))

"""The least number of routing decisions that an expert needs to be a candidate: what few decisions say is chance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moetrace.analytics.selection.run_facts import counts_are_nominal
from moetrace.analytics.selection.selection import SelectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

MIN_COUNT = 30


@dataclass(frozen=True)
class CountRule:
    """The rule as it applies to one run.

    - least: routing decisions that a candidate has at least, 0 where the rule is not applied
    - parameters: what the mask says of it
    - notes: a line for people where it could not be applied
    """

    least: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def count_rule(connection: duckdb.DuckDBPyConnection, run: str, min_count: int) -> CountRule:
    """Return the rule that candidates have at least `min_count` routing decisions, as far as the run knows any.

    Where a run has activation frequencies only, its counts are nominal, and the rule is not applied: the mask's
    `min_count` is null and `min_count_note` says why. Raises SelectionError for a `min_count` below 0.
    """
    if min_count < 0:
        raise SelectionError(f"min-count {min_count}: pass 0 or more with --min-count")
    if min_count == 0 or not counts_are_nominal(connection, run):
        return CountRule(min_count, {"min_count": min_count})
    why = "not applied: only activation frequencies are known, counts are nominal"
    return CountRule(0, {"min_count": None, "min_count_note": why}, (f"run '{run}': --min-count {min_count} {why}",))


def too_few(
    asked: str, given: int, pool: str, rule: CountRule, languages: tuple[str, ...], less: str
) -> SelectionError:
    """Return the error for a budget that the candidates do not fill.

    - asked: what was asked for, in words; given: the candidates there are; pool: what they are of
    - languages: whose decisions count, pooled; none: those of all
    - less: the option that would ask for less
    """
    whose = f" of {', '.join(languages)}" if languages else ""
    return SelectionError(
        f"{asked}: only {given} of {pool} have {rule.least} routing decisions{whose} or more; lower --min-count "
        f"(0: no such rule), trace more or lower {less}"
    )

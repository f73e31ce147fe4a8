"""What is said of texts that a trace could not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moetrace.cli.terminal import printable

if TYPE_CHECKING:
    from moetrace.tracer.runs.trace import TraceResult


def exit_code(result: TraceResult, store: str) -> int:
    """Say how many texts are not in the store, where any are; return 1 where this trace failed on some, else 0."""
    counts = {"": result.failed, " in earlier traces": result.failed_before}
    which = ", ".join(f"{count:,}{when}" for when, count in counts.items() if count)
    if which:
        click.echo(
            f"texts that could not be traced: {which}; `moetrace ls {printable(store)} --failed` says which and why, "
            "all others are there; they are not tried again",
            err=True,
        )
    return 1 if result.failed else 0

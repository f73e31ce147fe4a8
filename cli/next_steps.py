"""What to type next, once a store has something new."""

from __future__ import annotations

import shlex
from contextlib import suppress

from moetrace.cli.terminal import is_quiet, printable, say
from moetrace.store.errors import MoetraceError

BUDGET = 128


def say_next(store: str, run: str) -> None:
    """Say three commands that a run of a store is for, as they can be pasted into a shell."""
    if is_quiet():
        return
    with suppress(MoetraceError):  # what is wrong with a store is told by what was done, or will be
        say("\n".join(["next:", *(f"  {printable(line)}" for line in _commands(store, run))]))


def _commands(store: str, run: str) -> list[str]:
    from moetrace.store.read.reader import Store

    opened = Store(store)
    record = opened.run(run)
    pivot, budget = record.corpus.get("pivot"), min(BUDGET, len(record.moe_layers) * record.num_experts // 4)
    targets = [lang for lang in opened.languages(run) if lang != pivot]
    place, which = shlex.quote(store), f" --run {shlex.quote(run)}" if len(opened.runs) > 1 else ""
    found = [f"moetrace report {place}{which} -o report.html", f'moetrace sql {place} "from jaccard_by_layer"']
    if targets and pivot:
        found.append(f"moetrace export rise {place}{which} --target {targets[0]} --budget {budget} -o mask.json")
    return found

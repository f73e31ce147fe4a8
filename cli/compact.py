"""`moetrace compact`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moetrace.cli.options import RUN, STORE
from moetrace.cli.terminal import is_quiet, printable

if TYPE_CHECKING:
    from moetrace.store.write.compact import Compacted


@click.command(short_help="Make a store of many shards open faster.")
@STORE
@RUN
@click.option(
    "--moments",
    is_flag=True,
    help="Compute from routes what shards of a format before 5 lack for variances: sums over texts of squared counts.",
)
@click.option("--anew", is_flag=True, help="Read every shard again, also those that are compacted already.")
def compact(store: str, run: str | None, moments: bool, anew: bool) -> None:
    """Add up the roll-ups of STORE's shards into one file a run, so that many shards open as fast as few.

    What is made is used as long as the shards it was made from are as they were, can be made again at any time, and
    changes no result. Without --run, every run. Only shards that came since the last `compact` are read, or all with
    --anew. A trace of 100 shards or more ends with it.

    With --moments, languages with shards of a format before 5 get the columns `count_squared_sum` and
    `count_decisions_sum`, which are NULL otherwise: the routes of such shards are read, a layer in memory at a time. A
    later `compact` keeps them while those shards have the same files, and computes nothing twice.

    \b
    moetrace compact my-store
    moetrace compact my-store --moments
    """  # noqa: D301  click wants the escape itself
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moetrace.store.read.reader import Store
    from moetrace.store.write.compact import compact as add_up

    opened = Store(store)
    console = Console(stderr=True, quiet=is_quiet())
    columns = (TextColumn("counting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    for name in [opened.run(run).run] if run else list(opened.runs):
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal or not moments) as bar:
            task = bar.add_task("counting", total=None)
            made = add_up(
                opened,
                name,
                moments=moments,
                anew=anew,
                on_shard=lambda done, total, bar=bar, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
            )
        computed = f", second moments of {made.computed:,} from routes" if made.computed else ""
        click.echo(
            f"{printable(name)}: {len(made.index.entries):,} shards, {made.index.data.bytes / 1e6:.2f} MB{computed}"
        )
        if made.lacking and (moments or made.computable):
            click.echo(printable(f"{name}: {_lacking(made)}"), err=True)


def _lacking(made: Compacted) -> str:
    """Return which languages have no second moments, and what can be done."""
    shards, languages = sum(made.lacking.values()), len(made.lacking)
    what = (
        "`moetrace compact --moments` computes them from routes"
        if made.computable
        else "there are no routes, tokens and sequences to compute them from"
    )
    return f"{shards:,} shards of {languages:,} languages have no second moments over texts; {what}"

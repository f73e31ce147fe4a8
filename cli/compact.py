"""`moetrace compact`."""

from __future__ import annotations

import click

from moetrace.cli.options import RUN, STORE
from moetrace.cli.terminal import printable


@click.command(short_help="Make a store of many shards open faster.")
@STORE
@RUN
def compact(store: str, run: str | None) -> None:
    """Add up the roll-ups of STORE's shards into one file a run, so that many shards open as fast as few.

    What is made is used as long as the shards it was made from are as they were, can be made again at any time, and
    changes no result. Without --run, every run.

    \b
    moetrace compact my-store
    """  # noqa: D301  click wants the escape itself
    from moetrace.store.read.reader import Store
    from moetrace.store.write.compact import compact as add_up

    opened = Store(store)
    for name in [opened.run(run).run] if run else list(opened.runs):
        index = add_up(opened, name)
        click.echo(f"{printable(name)}: {len(index.entries):,} shards, {index.data.bytes / 1e6:.2f} MB")

"""`moetrace verify`."""

from __future__ import annotations

import click

from moetrace.cli.options import STORE


@click.command(short_help="Check every file of a store.")
@STORE
@click.option("--quick", is_flag=True, help="Only sizes, footers and schemas; nothing is read in full.")
@click.option(
    "--repair", is_flag=True, help="Take bad shards out of the store, so that the next trace does them again."
)
def verify(store: str, quick: bool, repair: bool) -> int:
    """Check STORE: checksums of every file, and the numbers in it against each other. Exits with 1 if any is bad.

    Bad files are named one a line. Files that no finished shard names are listed on stderr: a trace that was killed
    leaves them, a trace that runs now has them, and they are in nobody's way.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moetrace.store.verify.verify import verify as check

    console = Console(stderr=True)
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checking", total=None)
        verdict = check(
            store,
            quick=quick,
            repair=repair,
            on_shard=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for problem in verdict.problems:
        click.echo(f"{problem.path}: {problem.what}")
    for path in verdict.dropped:
        click.echo(f"{path}: taken out of the store; trace again as before")
    for path in (*verdict.orphans, *verdict.unfinished):
        click.echo(f"{path}: left by a trace that was stopped, or is under way", err=True)
    for path in verdict.claims:
        click.echo(f"{path}: is being traced", err=True)
    click.echo(
        f"{store}: {verdict.shards:,} shards, {verdict.files:,} files, {verdict.bytes / 1e6:,.1f} MB; "
        f"{len(verdict.problems) or 'no'} problem{'s' * (len(verdict.problems) != 1)}",
        err=True,
    )
    return 1 if verdict.problems else 0

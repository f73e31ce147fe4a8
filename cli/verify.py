"""`moetrace verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.options import STORE
from moetrace.cli.terminal import is_quiet, json_document, printable, say

if TYPE_CHECKING:
    from moetrace.store.verify.verdict import Verdict


@click.command(short_help="Check every file of a store.")
@STORE
@click.option("--quick", is_flag=True, help="Only records, sizes, footers and schemas; no data file is read in full.")
@click.option("--repair", is_flag=True, help="Move what is bad to quarantine/, so that the next trace does it again.")
@click.option("--dry-run", is_flag=True, help="Say what --repair would do, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON document.")
def verify(store: str, quick: bool, repair: bool, dry_run: bool, as_json: bool) -> int:
    """Check STORE: every record, checksums of every file, and the numbers in it against each other.

    What is bad is named one a line, and the exit code is 1. On stderr stands how many of the planned shards are there,
    and what no finished shard names: a trace that was killed leaves it, one that runs now has it, and it is in nobody's
    way.

    --repair deletes nothing. A damaged run record is written again from its copy where the shards prove that; a bad
    shard moves to quarantine/, with the reason. What could not be read for a reason that may pass, and what a living
    process is at work on, is left alone.

    \b
    moetrace verify my-store
    moetrace verify my-store --repair --dry-run
    moetrace verify my-store --quick --json
    """  # noqa: D301  click wants the escape itself
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moetrace.store.storage.open import open_storage
    from moetrace.store.verify.repair import carry_out
    from moetrace.store.verify.verify import verify as check

    if dry_run and not repair:
        raise click.UsageError("--dry-run goes with --repair")
    console = Console(stderr=True, quiet=is_quiet())
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    storage = open_storage(store)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("checking", total=None)
        verdict = check(
            storage, quick=quick, on_shard=lambda done, total: bar.update(task, completed=done, total=total)
        )
    if not as_json:
        _print_found(store, verdict)
    if repair and not as_json:
        for each in verdict.repairs:
            click.echo(printable(f"to repair: {each.says}"))
    if repair and not dry_run:
        carry_out(storage, verdict)
        if not as_json:
            _print_done(verdict)
    if as_json:
        click.echo(json_document(_document(store, verdict)))
    return 1 if verdict.problems else 0


def _print_found(store: str, verdict: Verdict) -> None:
    for problem in verdict.problems:
        click.echo(printable(f"{problem.path}: {problem.what}"))
    notes = [
        *(
            f"{path}: left by a trace that was stopped, or is under way"
            for path in (*verdict.orphans, *verdict.unfinished)
        ),
        *(f"{path}: is being traced" for path in verdict.claims),
        *(f"{path}: is of no store, and not read" for path in verdict.ignored),
        *(f"{path}: texts that were set aside: {count}" for path, count in verdict.failed.items()),
        *verdict.notes,
    ]
    for run in verdict.runs:
        rest = run.planned - run.there - len(run.missing)
        missing = ", ".join(run.missing) + (f" and {rest:,} more" if rest > 0 else "")
        lacking = f"; missing: {missing}" if run.missing else ""
        notes.append(f"run {run.run}: {run.there:,} of {run.planned:,} planned shards are there{lacking}")
    for note in notes:
        say(printable(note))
    say(
        f"{printable(store)}: {verdict.shards:,} shards, {verdict.files:,} files, {verdict.bytes / 1e6:,.1f} MB; "
        f"{len(verdict.problems) or 'no'} problem{'s' * (len(verdict.problems) != 1)}"
    )


def _print_done(verdict: Verdict) -> None:
    for said in verdict.left:
        click.echo(printable(said))
    for said in verdict.done:
        click.echo(printable(f"done: {said}"))
    if verdict.quarantine:
        click.echo(f"what was moved is in {verdict.quarantine}, the reasons in its reasons.json; trace again as before")


def _document(store: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "store": store,
        **{name: getattr(verdict, name) for name in ("shards", "files", "bytes")},
        "problems": [asdict(problem) for problem in verdict.problems],
        "repairs": [{"says": each.says, "moves": each.moves, "writes": list(each.writes)} for each in verdict.repairs],
        "runs": [asdict(run) for run in verdict.runs],
        **{
            name: getattr(verdict, name)
            for name in ("orphans", "unfinished", "claims", "notes", "ignored", "failed", "done", "left", "quarantine")
        },
    }

"""`moetrace rm`."""

from __future__ import annotations

import sys

import click

from moetrace.cli import completion
from moetrace.cli.options import STORE
from moetrace.cli.terminal import printable, say


@click.command(short_help="Take a run out of a store.")
@STORE
@click.option("--run", metavar="NAME", help="The run to take out.", shell_complete=completion.runs)
@click.option("--lang", metavar="L", help="Only this language of it.", shell_complete=completion.languages)
@click.option("--staging", is_flag=True, help="Remove unfinished files and claims of processes that are gone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Delete the files instead of moving them.")
def rm(store: str, run: str | None, lang: str | None, staging: bool, yes: bool, force: bool) -> None:
    """Take a run, or a language of it, out of STORE: its files move to quarantine/, from where they can come back.

    What is to go is said first, and asked for. A run that a living process is tracing is left alone.

    \b
    moetrace rm my-store --run first-attempt
    moetrace rm my-store --run swahili --lang swh_Latn --yes
    moetrace rm my-store --staging
    """  # noqa: D301  click wants the escape itself
    from moetrace.store.errors import as_store_errors
    from moetrace.store.read.store_format import read_format
    from moetrace.store.remove import plan_removal, remove
    from moetrace.store.storage.claims import living_claims, sweep_claims
    from moetrace.store.storage.open import open_storage

    if run is None and not staging:
        raise click.UsageError("say what: --run NAME, --staging or both")
    if lang is not None and run is None:
        raise click.UsageError("--lang is of a run; name it with --run")
    storage = open_storage(store)
    if staging:
        read_format(storage)
        with as_store_errors(storage, "written"):
            gone = [*storage.sweep(), *sweep_claims(storage)]
            kept = len(storage.unfinished()) + len(living_claims(storage))
        for path in gone:
            click.echo(printable(f"{path}: removed"))
        say(f"{len(gone)} unfinished folders and claims removed, {kept} may still be somebody's")
    if run is None:
        return
    removal = plan_removal(storage, run, lang)
    size = f"{removal.shards:,} shards, {len(removal.entries):,} files, {removal.bytes / 1e6:,.2f} MB"
    what = "are deleted" if force else "move to quarantine/"
    question = printable(f"{store}: {removal.what}: {size} {what}")
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(f"{question}: pass --yes")
    if not yes and not click.confirm(f"{question}. Go on?", err=True):
        say("nothing was moved")
        return
    folder = remove(storage, removal, force=force)
    click.echo(printable(f"{store}: {removal.what}: {size} {'deleted' if force else f'moved to {folder}'}"))

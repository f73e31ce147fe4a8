"""`moetrace ls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.options import STORE
from moetrace.cli.terminal import json_document, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.store.format.records import CommitRecord, RunRecord
    from moetrace.store.read.reader import Store

HEADINGS = ("language", "shards", "texts", "tokens", "MB", "bytes/decision")


@click.command(short_help="What a store holds.")
@STORE
@click.option("--failed", is_flag=True, help="The texts that were set aside, and why.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def ls(store: str, failed: bool, as_json: bool) -> None:
    """List the runs and languages of STORE: shards, texts, tokens, and bytes per routing decision.

    A dash, null in JSON, is what nobody knows of a run that was imported, or what a run does not have. In the JSON each
    run has `run`, `model` and `languages`, each of these `lang`, `shards`, `planned_shards`, `texts`, `tokens`, `bytes`
    and `bytes_per_decision`.

    With --failed, list the texts of finished shards that were set aside, by run, language and text, with the reason:
    those that a run's filters leave nothing of (`kind` is filter), and those that could not be traced (failed). In the
    JSON `failed` is a list of `run`, `lang`, `shard`, `seq`, `text_id`, `kind` and `reason`.

    \b
    moetrace ls my-store
    moetrace ls my-store --json
    moetrace ls my-store --failed
    """  # noqa: D301  click wants the escape itself
    from moetrace.store.read.reader import Store

    opened = Store(store)
    found = _set_aside(opened) if failed else []
    if as_json:
        click.echo(json_document(_failed_document(opened, found) if failed else _document(opened)))
        return
    if failed and not found:
        click.echo(f"{printable(store)}: no text was set aside", err=True)
        return
    from rich.console import Console

    console = Console()
    if failed:
        console.print(_failed_table(found))
        return
    for record in opened.runs.values():
        console.print(_table(record, [commit for commit in opened.commits if commit.run == record.run]))


def _set_aside(opened: Store) -> list[dict[str, Any]]:
    """Return a row for each text that was set aside."""
    return [
        {
            "run": record.run,
            "lang": record.lang,
            "shard": record.shard,
            "seq": text.seq,
            "text_id": text.text_id,
            "kind": text.kind,
            "reason": text.reason,
        }
        for record in opened.set_aside()
        for text in record.texts
    ]


def _failed_document(opened: Store, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"store": opened.url, "format_version": opened.format.version, "failed": list(found)}


def _failed_table(found: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in found[0]:
        table.add_column(name, justify="right" if name in {"shard", "seq"} else "left", overflow="fold")
    for row in found:
        table.add_row(*(Text(printable(str(value))) for value in row.values()))
    return table


def _document(opened: Store) -> dict[str, Any]:
    runs = []
    for record in opened.runs.values():
        commits = [commit for commit in opened.commits if commit.run == record.run]
        found = [_facts(record, commits, lang) for lang in _languages(record, commits)]
        runs.append({"run": record.run, "model": record.model["id"], "languages": found})
    return {"store": opened.url, "format_version": opened.format.version, "runs": runs}


def _table(record: RunRecord, commits: Sequence[CommitRecord]) -> Any:
    from rich.table import Table
    from rich.text import Text

    # As Text: a name may hold what rich would take for its markup.
    title = Text(printable(f"{record.run}: {record.model['id']}"))
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "language" else "right")
    for lang in [*_languages(record, commits), None]:
        facts = _facts(record, commits, lang)
        planned, each = facts["planned_shards"], facts["bytes_per_decision"]
        cells = (
            "all" if lang is None else printable(lang),
            f"{facts['shards']}/{planned}" if planned else f"{facts['shards']}",
            *("-" if facts[name] is None else f"{facts[name]:,}" for name in ("texts", "tokens")),
            f"{facts['bytes'] / 1e6:.2f}",
            "-" if each is None else f"{each:.2f}",
        )
        table.add_row(*map(Text, cells), style="bold" if lang is None else "")
    return table


def _languages(record: RunRecord, commits: Sequence[CommitRecord]) -> list[str]:
    """Return the languages that were planned, and those that are there: requests of a server may be of any."""
    return sorted({*record.corpus["languages"], *(commit.lang for commit in commits)})


def _facts(record: RunRecord, commits: Sequence[CommitRecord], lang: str | None) -> dict[str, Any]:
    """Return what there is of a language, or of all where None; None for what is not known."""
    mine = [commit for commit in commits if lang in (None, commit.lang)]
    tokens = sum(commit.tokens for commit in mine)
    routes = sum(file.bytes for commit in mine for file in commit.files if file.table == "routes")
    decisions = tokens * len(record.moe_layers) * record.top_k
    planned = record.corpus.get("shards", {})
    return {
        "lang": lang,
        "shards": len(mine),
        "planned_shards": sum(planned.values()) if lang is None else planned.get(lang),
        "texts": sum(commit.sequences for commit in mine) if "sequences" in record.tables else None,
        "tokens": None if record.nominal_tokens else tokens,
        "bytes": sum(file.bytes for commit in mine for file in commit.files),
        "bytes_per_decision": routes / decisions if routes and decisions else None,
    }

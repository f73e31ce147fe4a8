"""`moetrace ls`."""

from __future__ import annotations

import click

from moetrace.cli.options import STORE


@click.command(short_help="What a store holds.")
@STORE
def ls(store: str) -> None:
    """List the runs and languages of STORE: shards, texts, tokens, and bytes per routing decision.

    A dash is what nobody knows of a run that was imported, or what a run does not have.
    """
    from rich.console import Console
    from rich.table import Table

    from moetrace.store.read.reader import Store

    opened = Store(store)
    console = Console()
    for record in opened.runs.values():
        commits = [commit for commit in opened.commits if commit.run == record.run]
        table = Table(title=f"{record.run}: {record.model['id']}", title_justify="left", box=None, pad_edge=False)
        for heading in ("language", "shards", "texts", "tokens", "MB", "bytes/decision"):
            table.add_column(heading, justify="left" if heading == "language" else "right")
        found = {commit.lang for commit in commits}  # requests of a server may be of languages nobody planned
        for lang in [*sorted({*record.corpus["languages"], *found}), None]:
            mine = [commit for commit in commits if lang in (None, commit.lang)]
            tokens = sum(commit.tokens for commit in mine)
            size = sum(file.bytes for commit in mine for file in commit.files)
            routes = sum(file.bytes for commit in mine for file in commit.files if file.table == "routes")
            decisions = tokens * len(record.moe_layers) * record.top_k
            planned = record.corpus["shards"]
            total = sum(planned.values()) if lang is None else planned.get(lang)
            table.add_row(
                lang or "all",
                f"{len(mine)}/{total}" if total else f"{len(mine)}",
                f"{sum(commit.sequences for commit in mine):,}" if "sequences" in record.tables else "-",
                "-" if record.nominal_tokens else f"{tokens:,}",
                f"{size / 1e6:.2f}",
                f"{routes / decisions:.2f}" if routes else "-",
                style="bold" if lang is None else "",
            )
        console.print(table)

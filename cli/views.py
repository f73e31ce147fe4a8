"""`moetrace views`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from moetrace.cli import completion

if TYPE_CHECKING:
    from moetrace.analytics.database.documentation import SqlFile


@click.command(short_help="What each view is: columns, formula, range, source.")
@click.argument("name", required=False, shell_complete=completion.views)
def views(name: str | None) -> None:
    """List the SQL views and macros, or describe the one called NAME; the text comes from the SQL files themselves.

    \b
    moetrace views
    moetrace views jaccard
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.database.documentation import view
    from moetrace.analytics.database.documentation import views as all_views

    if name is not None:
        click.echo(_described(view(name)))
        return
    stage = ""
    for item in all_views().values():
        if item.stage != stage:
            click.secho(f"{item.stage[2:]}" if not stage else f"\n{item.stage[2:]}", bold=True)
            stage = item.stage
        click.echo(f"  {item.name:<26} {textwrap.shorten(item.row, 90, placeholder=' ...')}")
    click.echo("\n`moetrace views NAME` tells a view's arguments, columns, formula, range and source.")


def _described(item: SqlFile) -> str:
    facts = {
        "formula": item.formula,
        "range": item.range,
        "units": item.units,
        "source": item.source,
        "needs": item.needs,
    }
    lines = [click.style(item.signature, bold=True), textwrap.fill(item.row, 100), ""]
    lines += [textwrap.fill(f"{key}: {text}", 100, subsequent_indent="  ") for key, text in facts.items() if text]
    for title, entries in (("parameters", item.parameters), ("columns", item.columns)):
        if entries:
            lines += ["", f"{title}:", *(f"  {key:<24} {text}" for key, text in entries.items())]
    if item.kind == "macro":
        call = ", ".join(item.defaults)
        lines += ["", f"`from {item.name}` is `from {item.name}()`, the defaults; pass {call} by name with :="]
    return "\n".join(lines)

"""`moetrace export`: the experts to train, as a file that a trainer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli.options import RUN, STORE, output

if TYPE_CHECKING:
    from pathlib import Path

STRATEGIES = ("rise",)
FORMATS = ("moetrace", "rise")


@click.command(short_help="Export the experts to train for a language.")
@click.argument("strategy", type=click.Choice(STRATEGIES))
@STORE
@RUN
@click.option(
    "--target", "targets", multiple=True, required=True, metavar="LANG", help="Language to select for; may be repeated."
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="LANG",
    help="Languages to compare with; may be repeated.  [default: all of the run]",
)
@click.option("--budget", type=int, default=128, show_default=True, metavar="K", help="Experts over the whole model.")
@click.option("--alpha", type=float, default=10.0, show_default=True, help="Weight of the activation in a score.")
@click.option("--format", "file_format", type=click.Choice(FORMATS), default="moetrace", show_default=True)
@output("Write the mask here.  [default: standard output]")
def export(
    strategy: str,
    store: str,
    run: str | None,
    targets: tuple[str, ...],
    references: tuple[str, ...],
    budget: int,
    alpha: float,
    file_format: str,
    output: Path | None,
) -> None:
    """Select experts by STRATEGY from a run of STORE and write them as a mask.

    rise: language-specific experts of the shallow and deep layers, shared ones of the middle (2604.03592).

    \b
    moetrace export rise my-store --target swh_Latn --budget 32 -o mask.json
    """  # noqa: D301  click wants the escape itself
    from analytics.connection import connect
    from analytics.formats import FORMATS as WRITERS
    from analytics.selection import STRATEGIES as SELECT
    from store import Store

    opened = Store(store)
    record = opened.run(run)
    selection = SELECT[strategy](connect(opened), record.run, targets, reference=references, budget=budget, alpha=alpha)
    # The trace's own time, not the clock's: the same call gives the same bytes.
    text = WRITERS[file_format](selection, record, opened.traced_at(record.run))
    if output is None:
        click.echo(text, nl=False)
        return
    output.write_text(text, encoding="utf-8")
    click.echo(f"{output}: {len(selection.experts)} experts for {', '.join(selection.targets)}", err=True)

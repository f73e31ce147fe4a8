"""`moetrace report`."""

from __future__ import annotations

from pathlib import Path

import click

from moetrace.cli.options import RUN, STORE
from moetrace.cli.terminal import printable


@click.command(short_help="Draw a run as one HTML page.")
@STORE
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="report.html", show_default=True
)
@RUN
@click.option("--mask", type=click.Path(dir_okay=False, path_type=Path), help="Show this mask in the page too.")
@click.option(
    "--scores",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .csv or .parquet of lang and score: do languages that are routed like the pivot score higher?",
)
@click.option(
    "--replicates",
    type=int,
    default=400,
    show_default=True,
    help="Draws of the texts that intervals are made of; 0: no intervals.",
)
def report(store: str, output: Path, run: str | None, mask: Path | None, scores: Path | None, replicates: int) -> None:
    """Write one self-contained HTML page about a run: isolation, similarity to the pivot, specificity, the mask.

    \b
    moetrace report my-store -o report.html
    moetrace report my-store --run flores --mask mask.json -o report.html
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.report import write_report

    click.echo(printable(write_report(store, output, run=run, mask=mask, scores=scores, replicates=replicates)))

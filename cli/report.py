"""`moetrace report`."""

from __future__ import annotations

from pathlib import Path

import click

from moetrace.cli.options import OTHER_STORE, RUNS, STORE, two_runs
from moetrace.cli.terminal import printable


@click.command(short_help="Draw a run, or two side by side, as one HTML page.")
@STORE
@OTHER_STORE
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="report.html", show_default=True
)
@RUNS
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
def report(
    store: str,
    other: str | None,
    output: Path,
    runs: tuple[str, ...],
    mask: Path | None,
    scores: Path | None,
    replicates: int,
) -> None:
    """Write one self-contained HTML page about a run, or about how two runs differ.

    A run: isolation, divergence, similarity to the pivot, specificity, entropy, vocabulary, the mask. Two runs, of one
    store (--run twice) or of two: how each of these differs, and whether the same tokens go to the same experts.

    \b
    moetrace report my-store -o report.html
    moetrace report my-store --run flores --mask mask.json -o report.html
    moetrace report my-store --run base --run tuned -o tuned.html
    moetrace report my-store other-store -o both.html
    """  # noqa: D301  click wants the escape itself
    if two := two_runs(store, other, runs):
        if mask or scores:
            raise click.UsageError("--mask and --scores are of the page of one run; leave them out")
        from moetrace.analytics.report import write_comparison

        written = write_comparison(*two, output, replicates=replicates)
    else:
        from moetrace.analytics.report import write_report

        run = runs[0] if runs else None
        written = write_report(store, output, run=run, mask=mask, scores=scores, replicates=replicates)
    click.echo(printable(written))

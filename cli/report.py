"""`moetrace report`."""

from __future__ import annotations

from pathlib import Path

import click

from moetrace.cli import completion
from moetrace.cli.options import STORE
from moetrace.cli.terminal import printable


@click.command(short_help="Draw a run, or two side by side, as one HTML page.")
@STORE
@click.argument("other", required=False, metavar="[OTHER_STORE]")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default="report.html", show_default=True
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="NAME",
    help="Which run of the store; needed only where it has several. Twice: the second less the first.",
    shell_complete=completion.runs,
)
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
    if len(runs) > 2:
        raise click.UsageError(f"{len(runs)} runs: a page has one, or two side by side")
    if not other and len(runs) < 2:
        from moetrace.analytics.report import write_report

        run = runs[0] if runs else None
        written = write_report(store, output, run=run, mask=mask, scores=scores, replicates=replicates)
    else:
        if mask or scores:
            raise click.UsageError("--mask and --scores are of the page of one run; leave them out")
        from moetrace.analytics.report import write_comparison

        first, second = (*runs, *([runs[0]] if len(runs) == 1 else [None, None]))[:2]
        written = write_comparison((store, first), (other or store, second), output, replicates=replicates)
    click.echo(printable(written))

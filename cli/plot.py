"""`moetrace plot`."""

from __future__ import annotations

from pathlib import Path

import click

from moetrace.cli import completion
from moetrace.cli.options import RUN, output
from moetrace.cli.terminal import printable, say


def _choice(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not (name and equals) for name, equals, _ in pairs):
        raise click.BadParameter("say NAME=VALUE", ctx, param)
    return {name: value for name, _, value in pairs}


@click.command(short_help="Draw one chart of the report, as a paper takes it.")
@click.argument("name", shell_complete=completion.plots)
@click.argument("store")
@output("The file; its ending says what: .svg, .pdf, .png, .csv (the numbers), .json (Vega-Lite).", required=True)
@RUN
@click.option(
    "--lang",
    metavar="L",
    help="The language that the chart is of, or colours.  [default: the most specific]",
    shell_complete=completion.languages,
)
@click.option("--mask", type=click.Path(dir_okay=False, path_type=Path), help="The mask that the chart is of, or with.")
@click.option("--columns", type=click.IntRange(1, 2), default=1, show_default=True, help="Columns of a paper it spans.")
@click.option("--theme", default="moetrace", show_default=True, metavar="NAME", help="Or a theme of Vega's.")
@click.option(
    "--choose",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_choice,
    help="What the report lets a reader choose, such as measure=divergence; may be repeated.",
)
def plot(
    name: str,
    store: str,
    output: Path,
    run: str | None,
    lang: str | None,
    mask: Path | None,
    columns: int,
    theme: str,
    choose: dict[str, str],
) -> None:
    """Draw one chart of the report of a run, sized for a paper, readable without colour, its fonts in it.

    \b
    isolation      how far apart languages are routed, by layer
    pivot_lines    similarity to the pivot language by layer, a line a language
    pivot_heat     the same as a map of language by layer
    pivot_excess   similarity beyond that of mispaired texts, a line a language
    pairs          every language against every other
    specificity    every expert's specificity for one language
    entropy_lines  how evenly tokens spread over experts by layer, a line a language
    entropy_heat   the same as a map of language by layer
    mask_grid      the experts of a mask (--mask), by layer
    mask_coverage  the part of each language's decisions that a mask's experts take

    \b
    moetrace plot isolation my-store -o isolation.pdf
    moetrace plot pairs my-store --choose measure=divergence --columns 2 -o pairs.svg
    moetrace plot specificity my-store --lang swh_Latn -o swahili.png
    moetrace plot pivot_lines my-store -o similarity.csv
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.plots import plot as drawn
    from moetrace.analytics.plots import write_plot

    made = drawn(name, store, run=run, lang=lang, mask=mask).chosen(choose)
    write_plot(made, output, columns=columns, theme=theme)
    say(printable(output))

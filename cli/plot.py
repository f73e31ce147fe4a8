"""`moetrace plot`."""

from __future__ import annotations

from pathlib import Path

import click

from moetrace.cli import completion
from moetrace.cli.options import OTHER_STORE, RUNS, STORE, output, two_runs
from moetrace.cli.terminal import printable, say


def _choice(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not (name and equals) for name, equals, _ in pairs):
        raise click.BadParameter("say NAME=VALUE", ctx, param)
    return {name: value for name, _, value in pairs}


@click.command(short_help="Draw one chart of the report, as a paper takes it.")
@click.argument("name", shell_complete=completion.plots)
@STORE
@OTHER_STORE
@output("The file; its ending says what: .svg, .pdf, .png, .csv (the numbers), .json (Vega-Lite).", required=True)
@RUNS
@click.option(
    "--lang",
    metavar="L",
    help="The language that the chart is of, or colours.  [default: the most specific]",
    shell_complete=completion.languages,
)
@click.option("--mask", type=click.Path(dir_okay=False, path_type=Path), help="The mask that the chart is of, or with.")
@click.option("--scores", type=click.Path(dir_okay=False, path_type=Path), help="A .csv or .parquet of lang and score.")
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
    other: str | None,
    output: Path,
    runs: tuple[str, ...],
    lang: str | None,
    mask: Path | None,
    scores: Path | None,
    columns: int,
    theme: str,
    choose: dict[str, str],
) -> None:
    """Draw one chart of the report of a run, sized for a paper, readable without colour, its fonts in it.

    \b
    isolation      how far apart languages are routed, by layer
    divergence     how differently they use all experts, by layer
    pivot_lines    similarity to the pivot language by layer, a line a language
    pivot_heat     the same as a map of language by layer
    pivot_excess   similarity beyond that of mispaired texts, a line a language
    scores         whether languages routed like the pivot score higher (--scores), by layer
    score_points   the same, a point a language
    pairs          every language against every other
    specificity    every expert's specificity for one language
    entropy_lines  how evenly tokens spread over experts by layer, a line a language
    entropy_heat   the same as a map of language by layer
    vocabulary     divergence of all tokens and of the same tokens, by layer
    vocabulary_r   whether languages that share tokens diverge less, by layer
    corpus         tokens for one token of the pivot language
    mask_grid      the experts of a mask (--mask), by layer
    mask_coverage  the part of each language's decisions that a mask's experts take

    Of two runs, in one store (--run twice) or in two: agreement, agreement_heat, moved; isolation, divergence, excess,
    similarity and entropy, each also with _difference, and the last three with _languages.

    \b
    moetrace plot isolation my-store -o isolation.pdf
    moetrace plot pairs my-store --choose measure=divergence --columns 2 -o pairs.svg
    moetrace plot specificity my-store --lang swh_Latn -o swahili.png
    moetrace plot pivot_lines my-store -o similarity.csv
    moetrace plot agreement my-store --run bf16 --run fp8 -o agreement.pdf
    moetrace plot isolation my-store other-store -o both.pdf
    """  # noqa: D301  click wants the escape itself
    two = two_runs(store, other, runs)
    if two and (lang or mask or scores):
        raise click.UsageError("--lang, --mask and --scores are of charts of one run; leave them out")
    from moetrace.analytics.plot_file import write_plot
    from moetrace.analytics.plots import plot as drawn
    from moetrace.analytics.plots import plot_comparison

    if two:
        made = plot_comparison(name, *two)
    else:
        made = drawn(name, store, run=runs[0] if runs else None, lang=lang, mask=mask, scores=scores)
    made = made.chosen(choose)
    write_plot(made, output, columns=columns, theme=theme)
    say(printable(output))

"""The files that experts are exported as, and `moetrace export convert`, which writes one as another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.options import output
from moetrace.cli.terminal import printable, say

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATS = ("moetrace", "rise", "esft", "target-experts", "axolotl", "easysteer")
MASK = click.Path(path_type=Path)

FORMAT = click.option(
    "--format", "file_format", type=click.Choice(FORMATS), default="moetrace", show_default=True, help="Which file."
)


@click.command("convert", short_help="Write a mask or an intervention in another format; needs no store.")
@click.argument("mask", type=MASK)
@FORMAT
@output("Write the file here.  [default: standard output]")
def convert(mask: Path, file_format: str, output: Path | None) -> None:
    """Write MASK, a mask in the moetrace format, in another one; or an intervention, as EasySteer reads it.

    \b
    moetrace export convert mask.json --format esft -o expert_config.json
    moetrace export convert intervention.json --format easysteer -o router.json
    """  # noqa: D301  click wants the escape itself
    from moetrace.store.intervention import INTERVENTION, is_intervention, read_intervention
    from moetrace.store.mask import read_mask

    if not is_intervention(INTERVENTION.parse(mask)):
        write_mask(read_mask(mask), file_format, output)
        return
    if file_format != "easysteer":
        raise click.UsageError(f"{mask}: an intervention is written as --format easysteer alone")
    from moetrace.analytics.masks.formats import easysteer_of_intervention

    intervention = read_intervention(mask)
    _write_text(easysteer_of_intervention(intervention), f"{len(intervention.cells)} experts", output)


def write_mask(mask: Mapping[str, Any], file_format: str, output: Path | None) -> None:
    """Write a mask in a format, to a file or to standard output; say on stderr what a file has."""
    from moetrace.analytics.masks.formats import FORMATS as WRITERS
    from moetrace.store.mask import mask_targets

    languages = mask_targets(mask)
    words = f" for {', '.join(languages)}" if languages else ""
    _write_text(WRITERS[file_format](mask), f"{len(mask['experts'])} experts{words}", output)


def _write_text(text: str, about: str, output: Path | None) -> None:
    from moetrace.store.output import write_text

    if output is None:
        click.echo(text, nl=False)
        return
    write_text(output, text)
    say(printable(f"{output}: {about}"))

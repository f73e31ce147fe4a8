"""`moetrace merge`."""

from __future__ import annotations

from pathlib import Path

import click

from moetrace.cli.terminal import printable


@click.command(short_help="Write a model with trained experts in it, as an ordinary checkpoint.")
@click.argument("experts", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", required=True, metavar="MODEL", help="The model they were trained in.")
@click.option("--revision", metavar="R", help="Revision of the model on its hub.")
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the model."
)
def merge(experts: Path, model: str, revision: str | None, output: Path) -> None:
    """Put the EXPERTS that `moetrace train` wrote into MODEL and write what vLLM and transformers load.

    \b
    moetrace merge trained/experts.safetensors --model bundled -o merged
    """  # noqa: D301  click wants the escape itself
    from moetrace.tracer.bundled import named_model
    from moetrace.tracer.training.requirements import require_train

    require_train()
    from moetrace.tracer.training.merging import merge as write_merged  # torch is slow to import

    write_merged(named_model(model), experts, output, revision=revision)
    click.echo(printable(output))

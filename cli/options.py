"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

STORE = click.argument("store", type=click.Path(path_type=Path))
RUN = click.option("--run", metavar="NAME", help="Which run of the store; needed only where it has several.")


def output(help_text: str, *, required: bool = False) -> Callable[..., Any]:
    """Return the option for the file that a command writes."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        required=required,
        help=help_text,
    )

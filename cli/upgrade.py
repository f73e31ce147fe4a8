"""`moetrace upgrade`."""

from __future__ import annotations

import click

from moetrace.cli.options import STORE
from moetrace.cli.terminal import printable


@click.command(short_help="Give an older store what this version writes.")
@STORE
def upgrade(store: str) -> None:
    """Verify STORE in full, then give its records what an older format lacks; data files stay as they are.

    Since format 4 every record carries a checksum of its own. An older store can be read; to write into it, upgrade it
    first. Older versions of moetrace can then no longer read it.

    \b
    moetrace upgrade my-store
    """  # noqa: D301  click wants the escape itself
    from moetrace.store.format.schema import FORMAT_VERSION
    from moetrace.store.upgrade import upgrade as raise_version

    was = raise_version(store)
    click.echo(
        printable(
            f"{store}: format version {was} -> {FORMAT_VERSION}"
            if was < FORMAT_VERSION
            else f"{store}: has format version {was} already"
        )
    )

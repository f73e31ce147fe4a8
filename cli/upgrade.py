"""`moetrace upgrade`."""

from __future__ import annotations

import click

from moetrace.cli.options import STORE


@click.command(short_help="Let an older store take new shards.")
@STORE
def upgrade(store: str) -> None:
    """Let this version of moetrace write into a STORE of an older format; shards that are there stay as they are."""
    from moetrace.store.format.schema import FORMAT_VERSION
    from moetrace.store.upgrade import upgrade as raise_version

    was = raise_version(store)
    click.echo(
        f"{store}: format version {was} -> {FORMAT_VERSION}"
        if was < FORMAT_VERSION
        else f"{store}: has format version {was} already"
    )

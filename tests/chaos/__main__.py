"""Kill writers 1,000 times while others use their stores, and count what went wrong. `make chaos`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from tests.chaos.harness import storm
from tests.chaos.tally import Tally
from tests.support.s3_server import BUCKET, s3_bucket, s3_server

S3_SHARE = 0.16  # of the kills: a round there takes several times as long


@click.command()
@click.option("--kills", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--place", type=click.Choice(["local", "s3", "both"]), default="both", show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where stores are made; new. [default: a temporary one]"
)
def main(kills: int, seed: int, place: str, folder: Path | None) -> None:
    remote = {"local": 0, "s3": kills, "both": round(S3_SHARE * kills)}[place]
    wanted = {where: count for where, count in (("local", kills - remote), ("s3", remote)) if count}
    place_of_work = Path(tempfile.mkdtemp(prefix="chaos-")) if folder is None else folder
    place_of_work.mkdir(exist_ok=True)
    tally = Tally()
    try:
        with ExitStack() as opened:
            if remote:
                opened.enter_context(s3_bucket(opened.enter_context(s3_server())))
            for _ in storm(wanted, seed, place_of_work, f"s3://{BUCKET}", tally):
                click.echo(f"\r{tally.killed} of {kills} kills, {tally.failures} failures", nl=False, err=True)
    finally:  # also where somebody has seen enough
        click.echo(f"\n{tally.table()}")
    if folder is None and not tally.failures:
        shutil.rmtree(place_of_work)
    sys.exit(1 if tally.failures else 0)


if __name__ == "__main__":
    main()

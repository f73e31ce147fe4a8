"""Draw every figure of docs/findings.md, and the README's: `python -m tests.experiments.figures`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tests.experiments.figures import claims, readme, rise, steer
from tests.experiments.figures.style import svg
from tests.support.paths import ROOT

DRAWN = {"claims": claims.FIGURES, "rise": rise.FIGURES, "steer": steer.FIGURES}


def draw(folder: Path) -> list[Path]:
    """Draw the figures of the results that a folder has, beside them, and return their files."""
    written = []
    for name, figures in DRAWN.items():
        source = folder / f"{name}.json"
        if source.exists():
            results = json.loads(source.read_text(encoding="utf-8"))
            for figure, chart in figures.items():
                file = folder / f"{figure}.svg"
                file.write_text(svg(chart(results)) + "\n", encoding="utf-8")
                written.append(file)
    return written


@click.command()
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=ROOT / "docs/findings")
def main(folder: Path) -> None:
    """Draw every figure from the results in FOLDER, and the README's."""
    for file in [*draw(folder), *readme.draw(readme.FOLDER)]:
        click.echo(file)


if __name__ == "__main__":
    main()

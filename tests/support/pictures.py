"""Screenshots that are compared with stored ones: made small, so that letters blur and charts and colours remain."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CELL = (240, 120)  # pixels that a chart is made to
BLOCK = 20
MOST = 20.0  # of 255, the mean over a block and its colours: fonts and their widths take up to half of it
WRITE = os.environ.get("MOETRACE_SCREENSHOTS") == "write"


def sheet(shots: Sequence[bytes]) -> Image.Image:
    """Return PNG files one below the other, each in a cell."""
    made = Image.new("RGB", (CELL[0], CELL[1] * len(shots)))
    for number, shot in enumerate(shots):
        small = Image.open(io.BytesIO(shot)).convert("RGB").resize(CELL, Image.Resampling.BOX)
        made.paste(small, (0, CELL[1] * number))
    return made


def difference(first: Image.Image, second: Image.Image) -> float:
    """Return the largest mean difference of a block, after a blur; 255 where sizes differ."""
    if first.size != second.size:
        return 255.0
    blurred = [np.asarray(each.filter(ImageFilter.GaussianBlur(4)), dtype=np.float64) for each in (first, second)]
    apart = np.abs(blurred[0] - blurred[1])
    height, width, colours = apart.shape
    blocks = apart.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, colours)
    return float(blocks.mean(axis=(1, 3, 4)).max())


def compare(made: Image.Image, stored: Path) -> float:
    """Return how far a sheet is from the stored one; write it where MOETRACE_SCREENSHOTS is `write`."""
    if WRITE:
        stored.parent.mkdir(exist_ok=True)
        made.quantize(128).save(stored, optimize=True)
    return difference(made, Image.open(stored).convert("RGB"))

"""The model and the parallel corpus that moetrace ships, so that a first trace needs no network."""

from pathlib import Path

MODEL = Path(__file__).parent / "micro"
CORPUS = Path(__file__).parent / "corpus"

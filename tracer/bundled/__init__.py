"""The model and the parallel corpus that moetrace ships, so that a first trace needs no network."""

from pathlib import Path

BUNDLED = "bundled"  # what a person calls them by
MODEL = Path(__file__).parent / "micro"
CORPUS = Path(__file__).parent / "corpus"
EARLY = Path(__file__).parent / "early"  # a store: CORPUS through the model after a sixteenth of its training
EARLY_RUN = "early"


def named_model(model: str) -> str:
    """Return the folder of the bundled model for the word `bundled`, and any other name as it is."""
    return str(MODEL) if model == BUNDLED else model


def named_corpus(corpus: str) -> str:
    """Return the folder of the bundled corpus for the word `bundled`, and any other SPEC as it is."""
    return str(CORPUS) if corpus == BUNDLED else corpus

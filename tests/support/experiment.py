"""Results of the experiment that are made up, so that what its tables and figures say of them is known."""

from __future__ import annotations

from typing import Any


def made_up() -> dict[str, Any]:
    """Results of three ways to train, two seeds, where rise gains twice as much as random at any damage."""
    languages = ["a", "b", "t"]

    def training(method: str, rate: float, seed: int, gain: float, draw: int = 0) -> dict[str, Any]:
        losses = [[1.0, 1.0, 4.0], [1.2, 1.0, 4.0 - gain / 2], [1.4, 1.0, 4.0 - gain]]
        return {
            "target": "t", "method": method, "draw": draw, "seed": seed, "rate": rate,
            "parameters": 10, "seconds": 1.0, "steps": [0, 1, 2], "losses": losses,
        }  # fmt: skip

    mask = {"experts": [[0, 1]], "load": 0.25, "parameters": 10}
    return {
        "targets": ["t"],
        "languages": languages,
        "similar": {"t": ["a"]},
        "masks": {"t": {"rise/0": mask, "random/0": mask, "random/1": mask, "full/0": {**mask, "load": None}}},
        "sweep": [training("rise", 1e-3, 100, 0.5), training("rise", 1e-2, 100, 0.8)],
        "trainings": [
            *(training("rise", 1e-2, seed, 1.0 + 0.2 * seed) for seed in (0, 1)),
            *(training("random", 1e-2, seed, 0.4 + 0.2 * draw, draw) for seed in (0, 1) for draw in (0, 1)),
            *(training("full", 1e-4, seed, 1.0 + 0.2 * seed) for seed in (0, 1)),
        ],
    }

"""Clusters of languages."""

from __future__ import annotations

import numpy as np
import polars as pl

from moetrace.analytics.report.ordering import clusters, similarity_matrix


def test_clusters_are_what_is_alike_the_largest_first() -> None:
    family = np.array([0, 1, 2, 0, 1, 0])
    similarity = np.where(family[:, None] == family, 0.9, 0.1) + np.eye(6) * 0.1
    similarity[3, [0, 5]] = similarity[[0, 5], 3] = 0.95
    found = clusters([f"l{number}" for number in range(6)], similarity, 3)
    assert found == {
        **dict.fromkeys(("l0", "l3", "l5"), "l3 and 2 alike"),
        **dict.fromkeys(("l1", "l4"), "l1 and 1 alike"),
        "l2": "l2 alone",
    }
    assert next(iter(found.values())) == "l3 and 2 alike"
    assert len(set(clusters(["a", "b"], np.eye(2), 5).values())) == 2


def test_the_matrix_is_symmetric_and_says_what_is_not_known() -> None:
    pairs = pl.DataFrame(
        {
            "layers": ["all layers", "all layers", "layer 1"],
            "lang_a": ["a", "a", "b"],
            "lang_b": ["b", "c", "c"],
            "divergence": [0.25, None, 0.5],
        }
    )
    matrix = similarity_matrix(pairs, ["a", "b", "c"])
    assert matrix[0, 1] == matrix[1, 0] == 0.75
    assert np.isnan(matrix[0, 2])
    assert matrix[1, 2] == 0, "of one layer alone"

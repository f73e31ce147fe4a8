"""Comparing the rows of a metric with those of another, such as its reference."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from moetrace.analytics import metrics
from moetrace.analytics.metrics.filters import Filters
from tests.reference import metrics as reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from tests.support.stores import World

FILTERS = Filters.__annotations__.keys()
FLOAT32_PROFILES = ("pivot_similarity",)  # made of profiles, which are stored as float32
VALUES = {  # columns that hold what is computed; the others say what a row is about
    *("frequency", "share", "weight_mean", "weight_share", "probability", "jaccard", "isolation"),
    *("entropy", "entropy_normalized", "probability_entropy", "probability_entropy_normalized"),
    *("jsd", "jsd_normalized", "probability_jsd", "probability_jsd_normalized"),
    *("divergence", "similarity", "mispaired", "excess", "specificity", "score", "cv", "overlap"),
    *("gap", "specialization", "language_share", "type_jaccard", "token_overlap", "r_type", "r_token", "consistency"),
    *("pearson", "pearson_p", "pearson_p_layers", "spearman", "spearman_p", "spearman_p_layers"),
    *("p_type", "p_token", "r_type_normalized", "r_token_normalized", "jsd_controlled", "token_share"),
    *("equal_sets", "weight_error", "largest_weight_error"),
    *("count", "expected", "corrected", "balanced", "entropy_corrected", "jsd_corrected", "noise"),
}


def agrees_with_reference(
    opened: duckdb.DuckDBPyConnection, worlds: Sequence[World], name: str, arguments: dict[str, Any]
) -> None:
    """Fail where a metric of worlds that lie in one store is not what its reference makes of them."""
    filters = {key: value for key, value in arguments.items() if key in FILTERS}
    others = {key: value for key, value in arguments.items() if key not in FILTERS}
    expected = [
        {"run": world.record.run, **row}
        for world in worlds
        for row in reference.METRICS[name](
            reference.routing(reference.kept(world, arguments.get("languages"), **filters)), **others
        )
    ]
    if any(filters.values()):  # a text's mean router probability cannot be told for some of its tokens
        expected = [
            {key: None if key.startswith("probability") else value for key, value in row.items()} for row in expected
        ]
    found = getattr(metrics, name)(opened, **arguments).to_dicts()
    tolerance = 1e-6 if name in FLOAT32_PROFILES else 1e-9
    assert close(keyed(expected), keyed(found), tolerance)


def keyed(rows: list[dict[str, Any]]) -> dict[tuple[tuple[str, Any], ...], dict[str, float | None]]:
    """Split each row into what identifies it and its values; columns are in any order."""
    made = {
        tuple(sorted((key, value) for key, value in row.items() if key not in VALUES)): {
            key: value for key, value in row.items() if key in VALUES
        }
        for row in rows
    }
    assert len(made) == len(rows)
    return made


def close(expected: dict[Any, dict[str, Any]], found: dict[Any, dict[str, Any]], tolerance: float) -> bool:
    """Fail at the first value that differs by more than `tolerance`, and where rows or columns differ; else True."""
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert values.keys() == found[key].keys()
        for column, value in values.items():
            other = found[key][column]
            missing = value is None or other is None
            near = value is other if missing else math.isclose(value, other, rel_tol=tolerance, abs_tol=tolerance)
            assert near, (key, column, value, other)
    return True

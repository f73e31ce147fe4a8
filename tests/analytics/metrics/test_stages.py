"""Two runs side by side, against the references of each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.metrics import frames as metrics
from moetrace.store.errors import UnknownNameError
from tests.reference import metrics as reference
from tests.support.stores import World, make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

BASE = make_world(1, make_record("base", languages=["a", "b", "c"]))
TUNED = make_world(2, make_record("tuned", languages=["a", "b", "c", "d"]))


def mean(rows: list[dict[str, Any]], layer: int, column: str) -> float:
    return float(np.mean([row[column] for row in rows if row["layer"] == layer]))


@pytest.mark.parametrize("shared", [["a", "b", "c"], ["b"]])
def test_each_side_is_what_it_is_over_the_languages_both_have(shared: list[str], tmp_path: Path) -> None:
    base = World(BASE.record, {lang: texts for lang, texts in BASE.texts.items() if lang in shared})
    for world in (base, TUNED):
        write_world(tmp_path, world)
    rows = metrics.stage_comparison(connect(tmp_path), "base", "tuned").to_dicts()
    assert [row["layer"] for row in rows] == BASE.record.moe_layers
    for side, world in (("a", BASE), ("b", TUNED)):
        data = reference.routing(World(world.record, {lang: world.texts[lang] for lang in shared}))
        entropies, divergences = reference.routing_entropy(data), reference.divergence(data)
        specialized = {row["layer"]: row["specialization"] for row in reference.language_specialization(data)}
        for row in rows:
            layer = row["layer"]
            assert row["languages"] == len(shared)
            assert row[f"entropy_{side}"] == pytest.approx(mean(entropies, layer, "entropy_normalized"), abs=1e-9)
            if len(shared) == 1:
                assert row[f"divergence_{side}"] is row[f"specialization_{side}"] is None
                continue
            assert row[f"divergence_{side}"] == pytest.approx(mean(divergences, layer, "jsd_normalized"), abs=1e-9)
            assert row[f"specialization_{side}"] == pytest.approx(specialized[layer], abs=1e-9)


def test_the_view_has_every_pair_of_runs_once(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        write_world(tmp_path, replace(BASE, record=make_record(name, languages=["a", "b", "c"])))
    opened = connect(tmp_path)
    assert opened.sql("select distinct run_a, run_b from stage_comparison order by all").fetchall() == [
        ("x", "y"),
        ("x", "z"),
        ("y", "z"),
    ]
    frame = metrics.stage_comparison(opened, layers=[2])
    assert set(frame["layer"]) == {2}
    assert frame["entropy_a"].equals(frame["entropy_b"].rename("entropy_a"))
    backwards = metrics.stage_comparison(opened, "z", "x")
    assert backwards.select("run_a", "run_b").unique().rows() == [("z", "x")]
    with pytest.raises(UnknownNameError, match="has no run 'w'"):
        metrics.stage_comparison(opened, "w", "x")

"""Routing consistency, which looks at every token."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from moetrace.analytics import metrics
from moetrace.analytics.metrics import texts
from tests.reference.agreement import close, keyed
from tests.support.stores import World, make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb
    import pytest


def test_texts_whose_tokens_all_go_the_same_way_are_consistent(tmp_path: Path) -> None:
    world = make_world(16)
    same = {
        lang: [replace(text, experts=np.repeat(text.experts[:1], len(text.experts), axis=0)) for text in texts]
        for lang, texts in world.texts.items()
    }
    found = metrics.routing_consistency(open_worlds(tmp_path, [World(world.record, same)]))
    assert set(found["consistency"]) == {1.0}


def test_routing_consistency_is_the_same_however_little_fits_in_memory(
    three_languages: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = keyed(three_languages.sql("from routing_consistency").pl().to_dicts())
    for memory in (texts._TOKEN_LAYERS, 1):
        monkeypatch.setattr(texts, "_TOKEN_LAYERS", memory)
        assert close(at_once, keyed(metrics.routing_consistency(three_languages).to_dicts()), 1e-12)

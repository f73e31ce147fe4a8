"""The texts that every engine traces first, and the rows that a tap mixed up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.errors import CaptureError
from moetrace.tracer.engine.probe import check_rows, probe_shard, probe_texts
from moetrace.tracer.worker import PROBE_TOKENS
from tests.support.stores import make_record, make_shard, make_world

if TYPE_CHECKING:
    from moetrace.store.shard.shard import Shard


def routed() -> tuple[Shard, Shard]:
    """Two texts as they were routed, and the same two in the other order."""
    record = make_record(languages=("eng_Latn",), num_experts=16)
    texts = make_world(3, record, texts=4).texts["eng_Latn"][:2]
    return make_shard(record, "eng_Latn", 0, 0, texts), make_shard(record, "eng_Latn", 0, 0, texts[::-1])


def test_the_probe_is_the_same_for_every_engine_of_a_vocabulary_and_no_longer_than_its_window() -> None:
    one, again = probe_texts(8192, 1000), probe_texts(8192, 1000)
    assert [len(text) for text in one] == [PROBE_TOKENS // 4, PROBE_TOKENS - PROBE_TOKENS // 4]
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert all(text.max() < 100 for text in probe_texts(100, 1000))
    assert [len(text) for text in probe_texts(8192, 20)] == [16, 20]
    assert probe_shard(one).lengths.tolist() == [16, 48]


def test_texts_that_changed_places_are_routed_as_before() -> None:
    check_rows(*routed())


def test_rows_that_belong_to_other_positions_are_noticed() -> None:
    one, other = routed()
    axis = one.experts.shape.index(one.tokens)
    shifted = np.roll(other.experts, 1, axis=axis)
    with pytest.raises(CaptureError, match=r"rows were routed differently.*mixes up rows"):
        check_rows(one, replace(other, experts=shifted))

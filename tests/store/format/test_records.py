"""A run record says which run a store has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import RunMismatchError
from moetrace.store.write.writer import StoreWriter
from tests.support.shards import random_shard, record_with

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_with_another_record_is_refused_naming_the_field(tmp_path: Path) -> None:
    StoreWriter(tmp_path, record_with()).write(random_shard())
    with pytest.raises(RunMismatchError, match=r"settings.weight_precision: 'f32' in the store, 'f16' now"):
        StoreWriter(tmp_path, record_with(weight_precision="f16"))
    later = replace(record_with(), provenance={"created": "later"})
    assert StoreWriter(tmp_path, later).is_committed("eng_Latn", 0)

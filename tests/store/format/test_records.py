"""A run record says which run a store has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from moetrace.store.errors import RunMismatchError, StoreError
from moetrace.store.format import layout
from moetrace.store.format.records import CommitRecord, FileRecord
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


def test_text_ids_of_a_trace_are_parallel_unless_its_record_says_otherwise(tmp_path: Path) -> None:
    trace = record_with()
    said = {value: replace(trace, corpus={**trace.corpus, "parallel": value}) for value in (True, False)}
    assert [record.parallel for record in (trace, said[True], said[False])] == [True, True, False]
    assert not replace(trace, settings={**trace.settings, "imported": "esft"}).parallel
    StoreWriter(tmp_path, trace).write(random_shard())
    assert StoreWriter(tmp_path, said[True]).record.sha256() == trace.sha256()
    with pytest.raises(RunMismatchError, match=r"corpus.parallel: True in the store, False now"):
        StoreWriter(tmp_path, said[False])


def test_what_could_only_fill_the_memory_is_refused() -> None:
    record = record_with()
    model = {**record.model, "moe_layers": list(range(1000)), "num_experts": 8192}
    with pytest.raises(StoreError, match="1000 layers of 8192 experts are more than 4194304"):
        replace(record, model=model).check("here")
    commit = CommitRecord(
        run="run",
        lang="eng_Latn",
        shard=0,
        run_sha256=record.sha256(),
        sequences=1,
        tokens=1 << 27,
        files=tuple(FileRecord(layout.data_path(name, "run", "eng_Latn", 0), name, 0, 0, "") for name in record.tables),
        created="",
    )
    with pytest.raises(StoreError, match="tokens is 134217728, a shard whose tokens are kept has at most 67108864"):
        commit.check_under(record, "here")

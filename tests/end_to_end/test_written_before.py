"""A store, a run record and a mask that an earlier moetrace wrote are read as before (tests/fixtures/README.md)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from moetrace.analytics.database.connection import connect
from moetrace.cli.main import run
from moetrace.store.errors import StoreError
from moetrace.store.mask import mask_text, read_mask
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

BEFORE = ROOT / "tests" / "fixtures" / "written_before"
VIEWS = sorted(path.stem for path in (BEFORE / "expected").iterdir())


def test_every_file_is_what_its_record_says() -> None:
    verdict = verify(BEFORE / "store")
    assert (verdict.problems, verdict.orphans, verdict.shards, verdict.files) == ([], [], 6, 30)


@pytest.mark.parametrize("view", VIEWS)
def test_views_say_what_they_said(view: str) -> None:
    expected = pl.read_csv(BEFORE / "expected" / f"{view}.csv", infer_schema_length=None)
    found = connect(BEFORE / "store").sql(f"select * from {view} order by all").pl()
    added = [column for column in found.columns if column not in expected.columns]
    before = found.select(expected.columns)
    assert_frame_equal(before.cast(dict(expected.schema)), expected, rel_tol=1e-12, abs_tol=1e-12)
    of_sums = {"entropy_corrected", "jsd_corrected", "noise"}  # over texts, which were not kept then
    assert set(added) <= of_sums | {"mispaired", "excess"}
    assert all(found[column].is_null().all() == (column in of_sums) for column in added)


def test_the_same_export_writes_the_same_mask(tmp_path: Path) -> None:
    """But for what masks say since then: counts, the load, and which experts were candidates."""
    file = tmp_path / "mask.json"
    arguments = ["export", "rise", str(BEFORE / "store"), "--target", "swh_Latn", "--budget", "16", "-o", str(file)]
    assert run([*arguments, "--min-count", "0"]) == 0
    mask, before = read_mask(file), read_mask(BEFORE / "mask.json")
    assert set(mask["summary"].pop("load")) == {"target", "others"}
    assert [item.pop("count") > 0 for item in mask["experts"]] == [True] * 16
    parameters = mask["strategy"]["parameters"]
    assert (parameters.pop("min_count"), parameters.pop("shrinkage")) == (0, 0)
    assert mask_text(mask) == mask_text(before)


def test_a_mask_is_read_and_written_to_the_byte() -> None:
    mask = read_mask(BEFORE / "mask.json")
    assert len(mask["experts"]) == 16
    assert mask_text(mask) == (BEFORE / "mask.json").read_text()


def test_a_run_record_keeps_its_text_and_its_digest() -> None:
    store = Store(BEFORE / "store")
    record = store.run("demo")
    assert json.loads(record.to_json()) == {
        **json.loads((BEFORE / "store" / "runs" / "demo.json").read_text()),
        "checksum": json.loads(record.to_json())["checksum"],
    }
    assert {commit.run_sha256 for commit in store.commits} == {record.sha256()}


def test_a_run_of_then_is_gone_on_with_once_upgraded_and_has_nothing_left_to_do(tmp_path: Path) -> None:
    shutil.copytree(BEFORE / "store", tmp_path / "store")
    before = Store(tmp_path / "store")
    record = before.run("demo")
    with pytest.raises(StoreError, match="`moetrace upgrade"):
        StoreWriter(tmp_path / "store", record)
    assert run(["upgrade", str(tmp_path / "store")]) == 0
    assert Store(tmp_path / "store").commits == [replace(commit, version=3) for commit in before.commits]
    verdict = verify(tmp_path / "store")
    assert (verdict.problems, verdict.orphans, verdict.notes) == ([], [], [])
    with StoreWriter(tmp_path / "store", record) as writer:
        assert len(writer.committed()) == 6
        assert not any(writer.claim(commit.lang, commit.shard) for commit in Store(tmp_path / "store").commits)

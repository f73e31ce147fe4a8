"""The run record of an import."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from moetrace.cli.importing import FORMATS as NAMES
from moetrace.store.read.reader import Store
from tests.support.published import (
    EXPERTS,
    STATS,
    TOP_K,
    USAGE,
    import_files,
    import_small,
    small_task,
    write_stats,
    write_usage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.mark.parametrize(
    ("languages", "pivot"),
    [(("eng_Latn", "deu_Latn"), "eng_Latn"), (("en", "de"), "en"), (("en", "eng_Latn"), None), (("de", "sw"), None)],
)
def test_the_pivot_is_english_where_one_language_is(tmp_path: Path, languages: Sequence[str], pivot: str) -> None:
    task = small_task(tmp_path / "task")
    import_small(tmp_path / "store", *(f"{lang}={task}" for lang in languages))
    assert Store(tmp_path / "store").run().corpus["pivot"] == pivot


@pytest.mark.parametrize("file_format", NAMES)
def test_a_record_says_where_files_lay_in_its_provenance_only(tmp_path: Path, file_format: str) -> None:
    source = {
        "esft": lambda: f"a={small_task(tmp_path / 'task')}",
        "usage-json": lambda: f"a={write_usage(tmp_path / 'usage.json', USAGE, 4)}",
        "rise-stats": lambda: str(write_stats(tmp_path / "stats.json", STATS, experts=5, top_k=2, layers=3)),
    }[file_format]()
    import_files(file_format, tmp_path / "store", source, top_k=TOP_K, experts=EXPERTS)
    record = Store(tmp_path / "store").run()
    assert str(tmp_path) not in json.dumps(record.identity())
    assert "/" not in json.dumps(record.identity())
    assert str(tmp_path) in json.dumps(record.provenance)

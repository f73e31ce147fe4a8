"""The command that imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.cli.importing import FORMATS as NAMES
from moetrace.cli.main import run as moetrace
from moetrace.store.format.layout import commit_path
from moetrace.store.imports import FORMATS
from moetrace.store.read.reader import Store
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.local import LocalStorage
from tests.support.published import USAGE, import_files, small_task, write_usage

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_command_imports_skips_what_is_there_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = small_task(tmp_path / "task")
    store = tmp_path / "store"
    command = ["import", "esft", f"eng_Latn={task}", "--store", str(store), "--run", "made", "--top-k", "2"]
    command += ["--experts", "5", "--model-id", "Made-Up-MoE", "--shard-tokens", "3"]
    assert moetrace(command) == 0
    printed, said = capsys.readouterr()
    first, *following = said.splitlines()
    assert (printed, first) == ("", f"run made in {store}: 1 languages, 2 shards, 6 tokens written")
    assert following == [
        "next:",
        f"  moetrace report {store} -o report.html",
        f'  moetrace sql {store} "from jaccard_by_layer"',
    ]
    assert moetrace(command) == 0
    assert "0 shards written, 2 there before" in capsys.readouterr().err
    assert moetrace(["ls", str(store)]) == 0
    assert "made: Made-Up-MoE" in capsys.readouterr().out


def test_the_command_knows_every_format() -> None:
    assert list(FORMATS) == list(NAMES)


def test_shards_in_the_hands_of_another_process_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, task = tmp_path / "store", small_task(tmp_path / "task")
    command = ["import", "esft", f"eng_Latn={task}", "--store", str(store), "--run", "made", "--top-k", "2"]
    command += ["--experts", "5", "--shard-tokens", "2"]
    assert moetrace(command) == 0
    capsys.readouterr()
    storage = LocalStorage(store)
    storage.delete(commit_path("made", "eng_Latn", 1))
    with Claims(storage, "made", Store(store).run("made").sha256()) as claims:
        assert claims.take("eng_Latn", 1)
        assert moetrace(command) == 1
        (line,) = capsys.readouterr().err.splitlines()[1:]
        assert line == (
            f"moetrace: run made in {store}: 1 shards are missing, which another process has in hand "
            "(eng_Latn/00001); import again once it has ended"
        )
    assert moetrace(command) == 0
    assert "1 shards, 1 tokens written, 2 there before" in capsys.readouterr().err


def test_what_is_missing_is_told_of_counts_as_well(tmp_path: Path) -> None:
    store = tmp_path / "store"
    files = [f"{lang}={write_usage(tmp_path / lang, USAGE, 4)}" for lang in ("a", "b")]
    import_files("usage-json", store, *files)
    LocalStorage(store).delete(commit_path("run", "b", 0))
    with Claims(LocalStorage(store), "run", Store(store).run().sha256()) as claims:
        assert claims.take("b", 0)
        found = import_files("usage-json", store, *files)
    assert (found.written_shards, found.skipped_shards, found.missing) == (0, 1, ("b/00000",))
    again = import_files("usage-json", store, *files)
    assert (again.written_shards, again.skipped_shards, again.missing) == (1, 1, ())
    assert len(Store(store).commits) == 2

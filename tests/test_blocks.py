"""Every block of commands in README and docs/ runs, or says why it cannot; those of tutorials in tests/end_to_end."""

from __future__ import annotations

import contextlib
import io
import shutil
from typing import TYPE_CHECKING

import polars as pl
import pytest

from moetrace.cli.main import run
from moetrace.tracer.bundled import CORPUS
from tests.support.blocks import Desk, agrees, blocks
from tests.support.pages import PAGES, TUTORIALS, name_of
from tests.support.published import STATS, USAGE, write_stats, write_task, write_usage

if TYPE_CHECKING:
    from pathlib import Path

GUIDES = [page for page in PAGES if page not in TUTORIALS]

LANGUAGES = {"eng_Latn": "eng_Latn", "deu_Latn": "deu_Latn", "gsw_Latn": "tur_Latn", "spa_Latn": "spa_Latn"}
LANGUAGES |= {"swh_Latn": "swh_Latn", "gle_Latn": "gle_Latn"}  # each with whose texts it gets
NAMES = {"MODEL": "bundled", "CORPUS": "texts/", "STORE": "my-store", "NAME": "run"}


def typed(words: list[str]) -> tuple[int, str]:
    """Run a command of moetrace in this process; return its exit code and what it printed."""
    printed = io.BytesIO()
    stream = io.TextIOWrapper(printed, encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        status = run(words)
    return status, printed.getvalue().decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pages take for granted: texts, a store of them, one of two runs, files of others."""
    folder = tmp_path_factory.mktemp("world")
    texts = folder / "texts"
    texts.mkdir()
    for name, whose in LANGUAGES.items():
        lines = (CORPUS / f"{whose}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (texts / f"{name}.jsonl").write_text("".join(lines[:16]), encoding="utf-8")
    trace = ["trace", "bundled", "--engine", "synthetic", "--corpus", str(texts), "--store"]
    for store, name in (("my-store", "run"), ("two-runs", "base"), ("two-runs", "tuned")):
        status, printed = typed([*trace, str(folder / store), "--run", name])
        assert status == 0, printed
    status, printed = typed(
        [
            "export",
            "rise",
            str(folder / "my-store"),
            "--target",
            "swh_Latn",
            "--budget",
            "24",
            "-o",
            str(folder / "mask.json"),
        ]
    )
    assert status == 0, printed
    (folder / "belebele.csv").write_text("lang,score\neng_Latn,.9\ndeu_Latn,.8\nspa_Latn,.8\nswh_Latn,.6\n")
    one = {0: 0.5, 1: 0.4, 2: 0.3, 5: 0.2, 8: 0.1, 63: 0.1}
    write_task(folder / "intent", {1: [[one, one]], 2: [[one, one]]})
    write_usage(folder / "mgsm_en.json", USAGE, 4)
    write_usage(folder / "mgsm_sw.json", USAGE[::-1], 4)
    write_stats(folder / "routing_stats.json", STATS, experts=5, top_k=2, layers=3)
    return folder


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_block_runs_or_says_why_it_cannot(
    page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page run in order, in a folder of their own."""
    found = blocks(name_of(page), page.read_text(encoding="utf-8"))
    run_here = [block for block in found if block.reason is None]
    if not run_here:
        return
    folder = tmp_path / "folder"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    scores = pl.read_csv("belebele.csv")
    desk = Desk(folder, typed, NAMES, scores=scores, frame=scores)
    for block in run_here:
        desk.run(block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_command_stands_outside_a_block(page: Path) -> None:
    """An indented command would be neither run nor excused."""
    text = page.read_text(encoding="utf-8")
    typed_somewhere = "".join(block.text for block in blocks(name_of(page), text))
    for line in text.splitlines():
        if line.startswith(("    moetrace ", "    make ")):
            assert line in typed_somewhere, line


def test_a_reason_is_a_sentence_and_a_block_without_one_runs() -> None:
    page = (
        "```bash\nmoetrace ls a\n```\n\n<!-- not run: needs a GPU -->\n\n```bash\nmake test-gpu\n```\n\n"
        "```text\nno command\n```\n\n```console\n$ moetrace views\njaccard\n```\n"
    )
    first, second, third = blocks("page.md", page)
    assert (first.reason, first.line, first.commands) == (None, 1, [("moetrace ls a", [])])
    assert second.reason == "needs a GPU"
    assert third.commands == [("moetrace views", ["jaccard"])]


def test_what_a_page_shows_is_compared_but_for_rounding(tmp_path: Path) -> None:
    assert agrees("layer 1  0.66", "layer  1   0.665")
    assert not agrees("layer 1  0.66", "layer 1  0.70")
    assert not agrees("layer 1  0.66", "layer 2  0.66")
    assert not agrees("swh_Latn  0.66", "gle_Latn  0.66")
    (shown,) = blocks("page.md", "```console\n$ moetrace ls\nswh_Latn 7\n```\n")
    Desk(tmp_path, lambda _: (0, "swh_Latn  7"), {}).run(shown)
    for answer in ((0, "swh_Latn  9"), (1, "swh_Latn  7")):
        with pytest.raises(AssertionError, match=r"page\.md:1"):
            Desk(tmp_path, lambda _, answer=answer: answer, {}).run(shown)

"""The whole pipeline in a process of its own: the demo, an interrupted trace that goes on, a store for another run."""

from __future__ import annotations

import ctypes
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import polars as pl
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.metrics import stage_comparison
from moetrace.store.mask import read_mask
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.tracer.bundled import CORPUS, MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.warm import WarmProcess

pytestmark = pytest.mark.engine


MODULE = "moetrace.cli.main"
PROGRAM = (sys.executable, "-m", MODULE)


def rows(store: Path, table: str) -> pl.DataFrame:
    frames = [
        pl.read_parquet(file.location, hive_partitioning=False).with_columns(lang=pl.lit(file.lang), shard=file.shard)
        for file in Store(store).files(table)
    ]
    return pl.concat(frames)


def assert_every_position_stands_once(store: Path) -> None:
    """Compare the store with the corpus tokenised again, text by text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    found = rows(store, "tokens").join(rows(store, "sequences"), on=("lang", "shard", "seq"))
    texts = found.sort("lang", "seq", "position").group_by("lang", "text_id", maintain_order=True)
    seen = {key: (frame["position"].to_list(), frame["token_id"].to_list()) for key, frame in texts}
    for path in CORPUS.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            text = json.loads(line)
            token_ids = tokenizer(text["text"])["input_ids"]
            assert seen.pop((path.stem, text["id"])) == (list(range(len(token_ids))), token_ids)
    assert not seen


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo as anybody runs it, from the start of Python on."""
    folder = tmp_path_factory.mktemp("demo") / "moetrace-demo"
    command = [*PROGRAM, "demo", "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return folder, done.stdout


def test_the_demo_makes_a_store_a_report_and_a_mask_and_says_so(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    assert_every_position_stands_once(folder / "store")
    mask = read_mask(folder / "mask.json")
    assert mask["strategy"]["target"] == "swh_Latn"
    assert "swh_Latn" in (folder / "report.html").read_text(encoding="utf-8")
    for expected in (str(folder / "report.html"), str(folder / "mask.json"), "moetrace sql", "moetrace export rise"):
        assert expected in printed


def test_the_demo_again_traces_nothing_again(demo: tuple[Path, str], warm: WarmProcess) -> None:
    folder, _ = demo
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()}
    again = warm.start(MODULE, "demo", "-o", folder)
    assert again.wait() == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()} == before


def test_the_demo_puts_an_early_checkpoint_beside_todays_model(tmp_path: Path, warm: WarmProcess) -> None:
    shown = warm.start(MODULE, "demo", "--stages", "-o", tmp_path / "stages")
    assert shown.wait() == 0, shown.stderr
    with connect(tmp_path / "stages" / "store") as opened:
        stages = stage_comparison(opened, "early", "demo").to_dicts()
    assert [row["layer"] for row in stages] == list(range(8))
    assert {row["languages"] for row in stages} == {12}
    # Training makes the languages part ways: further apart in the first layer, and in all layers together.
    assert stages[0]["divergence_b"] > stages[0]["divergence_a"]
    assert sum(row["divergence_b"] - row["divergence_a"] for row in stages) > 0
    command = re.search(r"moetrace (export rise .*)", shown.stdout)
    assert command is not None
    assert warm.start(MODULE, *shlex.split(command[1])).wait() == 0


def test_another_run_of_the_same_name_is_refused_and_nothing_changes(demo: tuple[Path, str], warm: WarmProcess) -> None:
    folder, _ = demo
    before = sorted((folder / "store").rglob("*"))
    args = ("trace", "bundled", "--corpus", "bundled", "--store", folder / "store", "--run", "demo", "--limit", 5)
    refused = warm.start(MODULE, *args)
    assert refused.wait() == 1
    assert (
        "run 'demo' is in the store with another record (settings.limit: None in the store, 5 now; " in refused.stderr
    )
    assert sorted((folder / "store").rglob("*")) == before


def test_a_trace_stopped_by_ctrl_c_keeps_its_shards_and_others_go_on(
    demo: tuple[Path, str], warm: WarmProcess, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    # Steps of 32 tokens: slow enough to be stopped in the middle.
    args = ("trace", "bundled", "--corpus", "bundled", "--store", store, "--run", "demo", "--dtype", "float32",
            "--shard-tokens", 300, "--max-num-batched-tokens", 32, "--weight-precision", "f16")  # fmt: skip
    stopped = warm.start(MODULE, *args)
    deadline = time.monotonic() + 240
    while not list(store.glob("commits/*/*/*.json")):
        assert time.monotonic() < deadline, "no shard was committed in time"
        assert stopped.running, stopped.stderr
        time.sleep(0.05)
    stopped.signal(signal.SIGINT)
    assert stopped.wait(60) == 130, stopped.stderr
    assert "moetrace: interrupted" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    planned = sum(Store(store).run("demo").corpus["shards"].values())
    assert 0 < len(Store(store).commits) < planned
    before = len(Store(store).commits)
    # Two go on at once, and one of them is killed: the other leaves nothing out.
    killed, other = (warm.start(MODULE, *args) for _ in range(2))
    while len(Store(store).commits) < before + 2:
        assert time.monotonic() < deadline, "no other shard was committed in time"
        time.sleep(0.05)
    killed.signal(signal.SIGKILL)
    killed.wait(60)
    assert other.wait(240) == 0, other.stderr
    assert "were there before" in other.stderr
    verdict = verify(store)
    assert (verdict.problems, verdict.claims) == ([], [])
    assert len(Store(store).commits) == planned
    assert_every_position_stands_once(store)
    # The same decisions as a trace that nobody stopped, in other steps and other shards.
    keys = ("lang", "layer", "expert")
    counts = [
        rows(path, "usage").group_by(keys).agg(pl.col("count").sum()).sort(keys) for path in (store, demo[0] / "store")
    ]
    assert counts[0].equals(counts[1])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc of 2.33 or later: nobody counts")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, warm: WarmProcess) -> None:
    """What is in use in the second third of a trace is compared with the first third.

    Of the last third every shard is kept on purpose: that must show, or the measurement says nothing.
    """
    from moetrace.tracer.corpus.corpus import open_corpus
    from moetrace.tracer.model.facts import read_facts

    texts = [text.text for text in open_corpus(str(CORPUS)).read("swh_Latn")]
    folder, notes, store, shards = tmp_path / "corpus", tmp_path / "notes", tmp_path / "store", 72
    folder.mkdir()
    rows = [{"id": f"{n}-{i}", "text": text} for n in range(shards) for i, text in enumerate(texts)]
    (folder / "swh_Latn.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    # Small steps and little memory for shards: what is under way, and comes and goes, is little too.
    small = ("--max-num-batched-tokens", 512, "--max-memory", 0.001, "--kv-cache-gib", 0.1, "--shard-tokens", 2048)
    arguments = ("trace", "bundled", "--corpus", folder, "--store", store, *small)
    traced = warm.start("tests.support.live_memory", notes, 2 * shards // 3, *arguments)
    assert traced.wait() == 0, traced.stderr
    noted = [json.loads(line) for line in notes.read_text().splitlines()]
    assert len(noted) == len(Store(store).commits) == shards
    first, second, last = (noted[part * shards // 3 : (part + 1) * shards // 3] for part in range(3))
    assert [rows[-1]["kept"] for rows in (first, second, last)] == [0, 0, shards // 3]
    in_use = [statistics.median(note["live"] for note in part) for part in (first, second)]
    facts = read_facts(str(MODEL))
    routes = facts.captured_bytes(second[-1]["tokens"] - first[-1]["tokens"], 0, len(facts.moe_layers))
    assert last[-1]["live"] - in_use[1] > routes / 2, "shards that are kept do not show: nothing is measured"
    assert in_use[1] - in_use[0] < routes / 8, f"{in_use} bytes in use; {routes} are what routes take that are kept"

"""Traces that others made: every number comes back, and the command that imports them."""

from __future__ import annotations

import json
import tarfile
import tracemalloc
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import views
from moetrace.analytics.metrics import frames as metrics
from moetrace.analytics.report import write_report
from moetrace.cli.importing import FORMATS as NAMES
from moetrace.cli.main import run as moetrace
from moetrace.store.imports import FORMATS, ImportRequest, Silent, Source
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from tests.reference.metrics import METRICS
from tests.support.examples import examples
from tests.support.published import (
    EXPERTS,
    LAYERS,
    STATS,
    TOP_K,
    USAGE,
    import_files,
    import_small,
    random_task,
    small_task,
    write_stats,
    write_task,
    write_usage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moetrace.store.format.records import CommitRecord

TASKS = ("intent", "summary")
MGSM = ("bn", "de", "en", "es", "sw", "zh")
DECISION = {"layer": pl.UInt16, "seq": pl.Int32, "position": pl.Int32, "expert": pl.UInt8, "weight": pl.Float32}
PLACE = ("layer", "seq", "position", "expert")


def stored_decisions(store: Path, lang: str) -> pl.DataFrame:
    routes, tokens = (
        pl.concat(
            pl.read_parquet(file.location, hive_partitioning=False).with_columns(shard=file.shard)
            for file in Store(store).files(name)
            if file.lang == lang
        )
        for name in ("routes", "tokens")
    )
    return routes.join(tokens, on=("shard", "token")).select(DECISION.keys()).sort(PLACE)


def published_decisions(folder: Path, top_k: int) -> pl.DataFrame:
    """Read a task's text files as their README says, in nothing but Python."""
    found: dict[str, list[float]] = {name: [] for name in DECISION}
    for path in folder.glob("expert_weights_*.txt"):
        for seq, line in enumerate(path.read_text().splitlines()):
            ids, weights = (part.split("\t") for part in line.split("\t\t"))
            assert len(ids) == len(weights)
            found["layer"] += [int(path.stem.rpartition("_")[2])] * len(ids)
            found["seq"] += [seq] * len(ids)
            found["position"] += [index // top_k for index in range(len(ids))]
            found["expert"] += map(int, ids)
            found["weight"] += map(float, weights)
    return pl.DataFrame(found, schema=DECISION).sort(PLACE)


@pytest.fixture(scope="module")
def esft(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tasks, unpacked."""
    folder = tmp_path_factory.mktemp("esft")
    for task in TASKS:
        with tarfile.open(shared_data / "esft-trace" / f"{task}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def published(esft: Path) -> dict[str, pl.DataFrame]:
    """Every decision of both tasks."""
    return {task: published_decisions(esft / task, 6) for task in TASKS}


def test_every_published_decision_of_esft_comes_back(
    esft: Path, published: dict[str, pl.DataFrame], shared_data: Path, tmp_path: Path
) -> None:
    archives = [f"{task}={shared_data / 'esft-trace' / task}.tar.xz" for task in TASKS]
    result = import_files("esft", tmp_path, *archives, shard_tokens=4096, weight_precision="f32")
    assert (result.written_shards, result.skipped_shards) == (6, 0)
    for task, decisions in published.items():
        assert len(decisions) > 1_200_000
        assert stored_decisions(tmp_path, task).equals(decisions)
    assert verify(tmp_path).problems == []
    folders = [f"{task}={esft / task}" for task in TASKS]
    again = import_files("esft", tmp_path, *folders, shard_tokens=4096, weight_precision="f32")
    assert (again.written_shards, again.skipped_shards) == (0, 6)


def test_weights_are_kept_on_the_f16_grid_unless_told_otherwise(
    esft: Path, published: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    import_files("esft", tmp_path, f"intent={esft / 'intent'}")
    stored, expected = stored_decisions(tmp_path, "intent"), published["intent"]
    assert stored.drop("weight").equals(expected.drop("weight"))
    assert ((stored["weight"] - expected["weight"]).abs() <= expected["weight"] * 2.0**-11).all()
    assert not stored.equals(expected)
    db = connect(tmp_path)
    assert db.sql("select count(*), count(token_id) from tokens").fetchall() == [(8222, 0)]
    assert db.sql("select text_id from sequences order by seq limit 2").fetchall() == [("1",), ("2",)]
    assert db.sql("from pivot_similarity").fetchall() == []


@pytest.fixture(scope="module")
def mgsm(shared_data: Path) -> dict[str, dict[str, Any]]:
    folder = shared_data / "qwen3-30b-a3b-mgsm"
    return {lang: json.loads((folder / f"mgsm_{lang}.json").read_text()) for lang in MGSM}


def check_overlaps_of_mgsm(store: Path) -> None:
    """Compare the mean overlap of the sets of eight experts with what the counts were published to show."""
    pairs = metrics.jaccard_by_pair(connect(store))
    assert set(pairs["layers"]) == {48}
    for lang_a, lang_b, mean in (("bn", "en", 0.212), ("en", "sw", 0.144), ("en", "es", 0.514)):
        found = pairs.filter(lang_a=lang_a, lang_b=lang_b, n=8)["jaccard"].item()
        assert found == pytest.approx(mean, abs=5e-4)


def test_published_counts_come_back(shared_data: Path, mgsm: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder = shared_data / "qwen3-30b-a3b-mgsm"
    import_files("usage-json", tmp_path, *(f"{lang}={folder}/mgsm_{lang}.json" for lang in MGSM))
    expected = [
        (lang, int(layer), int(expert), numbers["activation_tokens"], numbers["gate_values_sum"])
        for lang, layers in mgsm.items()
        for layer, experts in layers.items()
        for expert, numbers in experts.items()
        if expert != "total_tokens"
    ]
    db = connect(tmp_path)
    assert db.sql("select lang, layer, expert, count, weight_sum from usage order by all").fetchall() == sorted(
        expected
    )
    tokens = {lang: layers["0"]["total_tokens"] for lang, layers in mgsm.items()}
    assert dict(db.sql("select lang, tokens from languages").fetchall()) == tokens
    record = Store(tmp_path).run()
    assert (record.top_k, record.num_experts, len(record.moe_layers), record.corpus["pivot"]) == (8, 128, 48, "en")
    assert verify(tmp_path).problems == []
    check_overlaps_of_mgsm(tmp_path)


def test_frequencies_in_the_form_of_rise_come_back(mgsm: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    frequencies: dict[str, Any] = defaultdict(dict)
    for lang, layers in mgsm.items():
        for layer, experts in layers.items():
            counts = {
                expert: numbers["activation_tokens"] for expert, numbers in experts.items() if expert != "total_tokens"
            }
            frequencies[lang][layer] = {expert: 8 * count / sum(counts.values()) for expert, count in counts.items()}
    file = write_stats(tmp_path / "routing_stats.json", frequencies, experts=128, top_k=8, layers=48)
    import_files("rise-stats", tmp_path / "store", str(file))
    assert verify(tmp_path / "store").problems == []
    for lang, layer, expert, frequency in metrics.activation(connect(tmp_path / "store"))[
        ["lang", "layer", "expert", "frequency"]
    ].iter_rows():
        assert frequency == pytest.approx(frequencies[lang][str(layer)][str(expert)], abs=1e-9)
    check_overlaps_of_mgsm(tmp_path / "store")


@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 6), min_size=1, max_size=7),
    st.integers(1, 12),
    st.lists(st.integers(0, 60), min_size=1, max_size=3, unique=True),
)
@examples(15)
def test_any_task_comes_back_whatever_its_shards(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: list[int], shard_tokens: int, layers: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("task")
    task = write_task(folder / "task", random_task(seed, lengths, layers))
    import_small(folder / "store", f"a={task}", shard_tokens=shard_tokens, weight_precision="f32")
    assert stored_decisions(folder / "store", "a").equals(published_decisions(task, TOP_K))
    store = Store(folder / "store")
    assert store.run().moe_layers == sorted(layers)
    assert all(commit.tokens <= shard_tokens or commit.sequences == 1 for commit in store.commits)
    assert sum(commit.tokens for commit in store.commits) == store.run().corpus["tokens"]["a"] == sum(lengths)
    assert len(store.commits) == store.run().corpus["shards"]["a"]
    assert verify(folder / "store").problems == []


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 4), st.integers(4, 300))
@examples(15)
def test_any_counts_come_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tokens: int, top_k: int, experts: int
) -> None:
    folder = tmp_path_factory.mktemp("counts")
    rng = np.random.default_rng(seed)
    chosen = [[rng.choice(experts, top_k, replace=False) for _ in range(tokens)] for _ in LAYERS]
    count = np.array([np.bincount(np.ravel(layer), minlength=experts) for layer in chosen])
    file = write_usage(folder / "counts.json", count, tokens)
    import_files("usage-json", folder / "store", f"a={file}", experts=experts)
    found = connect(folder / "store").sql("select count, weight_sum from usage order by layer, expert").fetchall()
    assert found == [(number, number / 4) for number in count.ravel().tolist()]
    assert Store(folder / "store").run().top_k == top_k
    assert verify(folder / "store").problems == []


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two runs that have roll-ups only."""
    folder = tmp_path_factory.mktemp("counted")
    usage = write_usage(folder / "usage.json", USAGE, 4)
    import_files("usage-json", folder / "store", f"en={usage}", run="counts")
    stats = write_stats(folder / "routing_stats.json", STATS, experts=5, top_k=2, layers=3)
    import_files("rise-stats", folder / "store", str(stats), run="frequencies")
    return folder / "store"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_asked_of_runs_with_roll_ups_only(name: str, counted: Path) -> None:
    rows = connect(counted).sql(f"from {name} where run = 'frequencies'").pl()
    of_rollups = {"usage", "run records", "commit records"}
    assert rows.is_empty() == bool(set(views()[name].needs.split(", ")) - of_rollups)


def test_what_roll_ups_do_not_say_is_null(counted: Path) -> None:
    entropy = metrics.routing_entropy(connect(counted))
    assert entropy["entropy"].null_count() == 0
    assert entropy["probability_entropy"].null_count() == len(entropy)
    activation = connect(counted).sql("select run, count(weight_mean) > 0 from activation group by 1 order by 1")
    assert activation.fetchall() == [("counts", True), ("frequencies", False)]


def test_frequencies_stand_for_no_number_of_tokens(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Store(counted).run("frequencies")
    assert record.nominal_tokens
    assert record.settings["tokens"] == "nominal"
    assert record.model["id"] == "Made-Up-MoE"
    assert not Store(counted).run("counts").nominal_tokens
    frequency = "select frequency from activation where run = 'frequencies' and lang = 'eng_Latn' and layer = 0"
    assert connect(counted).sql(f"{frequency} order by expert").fetchall() == [(1,), (0.75,), (0.25,), (0,), (0,)]
    assert moetrace(["ls", str(counted)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines if line[:1] == ["en"]] == [["en", "1/1", "-", "4"]]
    assert [(line[:4], line[-1]) for line in lines if line[:1] == ["eng_Latn"]] == [
        (["eng_Latn", "1/1", "-", "-"], "-")
    ]


@pytest.mark.parametrize("run", ["counts", "frequencies"])
def test_a_report_says_what_nobody_knows(run: str, counted: Path, tmp_path: Path) -> None:
    page = write_report(counted, tmp_path / "report.html", run=run).read_text(encoding="utf-8")
    assert "1,000,000,000" not in page
    assert "unknown" in page
    assert ">None<" not in page


def test_a_last_line_needs_no_newline_and_lines_may_end_as_in_windows(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    published = published_decisions(task, TOP_K)
    first, second = (task / f"expert_weights_{layer}.txt" for layer in LAYERS)
    first.write_bytes(first.read_bytes().replace(b"\n", b"\r\n"))
    second.write_bytes(second.read_bytes().rstrip(b"\n"))
    import_small(tmp_path / "store", f"a={task}", weight_precision="f32")
    assert stored_decisions(tmp_path / "store", "a").equals(published)


def test_a_member_of_an_archive_cannot_leave_the_folder_it_is_unpacked_to(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    with tarfile.open(tmp_path / "task.tar", "w") as archive:
        for file in task.iterdir():
            archive.add(file, f"../../{file.name}")
        archive.add(small_task(tmp_path / "other") / "expert_weights_1.txt", "../escaped.txt")
    import_small(tmp_path / "store", f"a={tmp_path / 'task.tar'}", weight_precision="f32")
    assert stored_decisions(tmp_path / "store", "a").equals(published_decisions(task, TOP_K))
    assert not list(tmp_path.parent.glob("escaped.txt"))


def test_languages_of_one_file_can_be_chosen(tmp_path: Path) -> None:
    stats = write_stats(tmp_path / "stats.json", STATS, experts=5, top_k=2, layers=3)
    import_files("rise-stats", tmp_path / "store", f"swh_Latn={stats}")
    assert Store(tmp_path / "store").languages("run") == ["swh_Latn"]


@pytest.mark.parametrize(
    ("languages", "pivot"),
    [(("eng_Latn", "deu_Latn"), "eng_Latn"), (("en", "de"), "en"), (("en", "eng_Latn"), None), (("de", "sw"), None)],
)
def test_the_pivot_is_english_where_one_language_is(tmp_path: Path, languages: Sequence[str], pivot: str) -> None:
    task = small_task(tmp_path / "task")
    import_small(tmp_path / "store", *(f"{lang}={task}" for lang in languages))
    assert Store(tmp_path / "store").run().corpus["pivot"] == pivot


class InterruptedAfter(Silent):
    """A person who presses Ctrl-C when some shards are in the store."""

    def __init__(self, shards: int) -> None:
        self.left = shards

    def committed(self, commit: CommitRecord) -> None:  # noqa: ARG002  the interface of a Watch
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path: Path) -> None:
    sources = [
        f"{lang}={write_task(tmp_path / lang, random_task(seed, (3, 2, 4, 1, 5)))}" for seed, lang in enumerate("ab")
    ]
    options = {"top_k": TOP_K, "experts": EXPERTS, "shard_tokens": 4}
    request = ImportRequest(tuple(Source.parse(source) for source in sources), "run", **options)
    with pytest.raises(KeyboardInterrupt):
        FORMATS["esft"](tmp_path / "stopped", request, InterruptedAfter(5))
    assert len(Store(tmp_path / "stopped").commits) == 5
    again = FORMATS["esft"](tmp_path / "stopped", request, Silent())
    assert again.skipped_shards == 5
    whole = FORMATS["esft"](tmp_path / "whole", request, Silent())
    assert again.written_shards == whole.written_shards - 5 > 0
    assert [commit.files for commit in Store(tmp_path / "stopped").commits] == [
        commit.files for commit in Store(tmp_path / "whole").commits
    ]
    assert verify(tmp_path / "stopped").problems == []


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


def test_memory_does_not_grow_with_the_lines(tmp_path: Path) -> None:
    peaks = []
    for name, lines in (("few", 60), ("many", 480)):
        task = write_task(tmp_path / name, random_task(3, (20,) * lines, layers=(0, 1)))
        tracemalloc.start()
        result = import_small(tmp_path / "store", f"a={task}", run=name, shard_tokens=400)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.written_shards == lines // 20
    assert peaks[1] < 1.25 * peaks[0]


def test_the_command_imports_skips_what_is_there_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = small_task(tmp_path / "task")
    store = tmp_path / "store"
    command = ["import", "esft", f"eng_Latn={task}", "--store", str(store), "--run", "made", "--top-k", "2"]
    command += ["--experts", "5", "--model-id", "Made-Up-MoE", "--shard-tokens", "3"]
    assert moetrace(command) == 0
    assert capsys.readouterr() == ("", f"run made in {store}: 1 languages, 2 shards, 6 tokens written\n")
    assert moetrace(command) == 0
    assert "0 shards written, 2 there before" in capsys.readouterr().err
    assert moetrace(["ls", str(store)]) == 0
    assert "made: Made-Up-MoE" in capsys.readouterr().out


def test_the_command_knows_every_format() -> None:
    assert list(FORMATS) == list(NAMES)

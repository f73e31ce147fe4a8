"""`moetrace export` as a person types it: what it writes, what it explains, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.report.mask_input import mask_command
from moetrace.cli.export import export
from moetrace.cli.main import run
from moetrace.store.mask import read_mask
from tests.support.commands import failure
from tests.support.stores import make_record, make_world, write_counts, write_world

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = range(2, 10)
CALLS: dict[str, tuple[str, ...]] = {
    "rise": (
        *("--target", "swh_Latn", "--budget", "9", "--shallow", "0.5", "--middle", "0.2", "--alpha", "3.5"),
        *("--min-count", "5", "--shrinkage", "2.5"),
    ),
    "gap": (
        *("--target", "swh_Latn", "--layers", "3", "--alpha", "0.02", "--shared", "1", "--parent", "eng_Latn"),
        *("--min-count", "3"),
    ),
    "top-p": ("--target", "swh_Latn", "--target", "eng_Latn", "--score", "gate", "--p", "0.3"),
    "top-k": ("--per-layer", "2", "--min-count", "8"),
    "task": ("--against", "general", "--tau", "0.01"),
    "random": ("--seed", "3", "--match", "load", "--slack", "0.1"),
    "sql": ("--query", "select layer, expert, score from specificity where run = 'run' and lang = 'swh_Latn'"),
}


WHOSE = {"target": "the target", "others": "the other languages"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several runs, and masks beside it."""
    path = tmp_path_factory.mktemp("export")
    store = path / "store"
    write_world(store, make_world(1, make_record("run", moe_layers=LAYERS)))
    write_world(store, make_world(2, make_record("general", moe_layers=LAYERS)))
    write_world(store, make_world(3, make_record("deeper", moe_layers=range(2, 11))))
    write_counts(store, make_record("one", ["a"], tables=["usage"]), {"a": np.full((3, 8), 5)}, {"a": 20})
    write_world(store, make_world(5, make_record("routes", tables=["tokens", "routes"])))
    assert (
        run(
            [
                "export",
                "rise",
                str(store),
                "--run",
                "run",
                "--target",
                "swh_Latn",
                "-o",
                str(path / "like.json"),
                "--budget",
                "20",
                "--min-count",
                "0",
            ]
        )
        == 0
    )
    return path


def arguments(folder: Path, strategy: str, *more: str) -> list[str]:
    mask = str(folder / "like.json")
    like = ("--like", mask, "--exclude", mask) if strategy == "random" else ()
    return ["export", strategy, str(folder / "store"), "--run", "run", *like, *CALLS[strategy], *more]


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert run(list(args)) == 0
    return capsys.readouterr().out


def test_every_strategy_is_called_here() -> None:
    assert set(export.commands) == {*CALLS, "convert"}


@pytest.mark.parametrize("strategy", [*CALLS, "convert"])
def test_every_strategy_explains_itself(strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "export", strategy, "--help")
    assert shown.startswith(f"Usage: moetrace export {strategy} ")
    for option in export.commands[strategy].params:
        if option.param_type_name == "option" and option.name != "help":
            assert option.opts[-1] in shown
            assert option.help
    if strategy in {"rise", "gap", "top-p", "top-k", "task"}:
        assert "arXiv 2" in " ".join(shown.split())


@pytest.fixture(scope="module")
def written_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the masks of all calls, which another process wrote: one with other hashes of strings."""
    masks = tmp_path_factory.mktemp("elsewhere")
    calls = [arguments(folder, strategy, "-o", str(masks / f"{strategy}.json")) for strategy in CALLS]
    program = f"from moetrace.cli.main import run; assert not any([run(call) for call in {calls!r}])"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return masks


@pytest.mark.parametrize("strategy", CALLS)
def test_the_same_call_writes_the_same_bytes(
    strategy: str, folder: Path, written_elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(capsys, *arguments(folder, strategy))
    written = written_elsewhere / f"{strategy}.json"
    assert written.read_text() == shown
    mask = read_mask(written)
    assert mask["strategy"]["name"] == strategy
    assert mask["experts"]
    parameters = mask["strategy"]["parameters"]
    for name, value in zip(CALLS[strategy][::2], CALLS[strategy][1::2], strict=True):
        if name != "--target":
            assert str(parameters[name[2:].replace("-", "_")]) == value


@pytest.mark.parametrize("strategy", CALLS)
@pytest.mark.parametrize("file_format", ["moetrace", "rise", "esft", "target-experts", "axolotl", "easysteer"])
def test_converting_a_mask_writes_what_exporting_would(
    strategy: str,
    file_format: str,
    folder: Path,
    written_elsewhere: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    mask, asked = str(written_elsewhere / f"{strategy}.json"), ("--format", file_format)
    if file_format == "rise" and strategy != "rise":
        for args in (arguments(folder, strategy, *asked), ["export", "convert", mask, *asked]):
            assert f"--format rise holds a rise selection, not {strategy}" in failure(capsys, *args)
        return
    direct = printed(capsys, *arguments(folder, strategy, *asked))
    assert printed(capsys, "export", "convert", mask, *asked) == direct
    file = tmp_path / "converted"
    assert run(["export", "convert", mask, *asked, "-o", str(file)]) == 0
    assert file.read_text() == direct


def test_an_intervention_is_written_for_easysteer_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [{"mode": "suppress", "experts": [{"layer": 1, "expert": 7}]}]
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"format": "moetrace-intervention", "version": 1, "name": "x", "steps": steps}))
    found = json.loads(printed(capsys, "export", "convert", str(file), "--format", "easysteer"))
    assert found["layer_configs"]["1"]["deactivate_ids"] == [7]
    assert run(["export", "convert", str(file), "--format", "esft"]) == 2


@pytest.mark.parametrize("strategy", CALLS)
def test_explain_tells_of_every_expert_and_of_what_just_missed(
    strategy: str, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(arguments(folder, strategy, "--explain")) == 0
    captured = capsys.readouterr()
    mask = json.loads(captured.out)
    assert run(arguments(folder, strategy, "--explain", "-o", str(tmp_path / "mask.json"))) == 0
    again = capsys.readouterr()
    assert again.out == captured.err
    lines = again.out.splitlines()
    assert lines[0] == f"Chosen: {len(mask['experts'])} experts"
    assert lines[1].split()[:2] == ["layer", "expert"]
    for line, item in zip(lines[3:], mask["experts"], strict=False):
        assert line.split()[:3] == [str(item["layer"]), str(item["expert"]), item["role"]]
        if item["score"] is not None:
            assert f"{item['score']:.6g}" in line.split()
        assert f"{item['count']}" in line.split()
    assert lines[1].split().count("count") == 1
    assert ("Just missed" in lines) == (strategy not in {"random", "sql"})
    load = mask["summary"]["load"]
    told = [f"{load[whose]:.4f} of {name}" for whose, name in WHOSE.items() if load[whose] is not None]
    assert f"Load, the share of routing decisions that meet a chosen expert: {', '.join(told)}" in lines
    assert len(told) == (2 if mask["strategy"]["target"] else 1)


def test_explain_names_the_runner_up_of_each_zone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(folder, "rise", "--explain")) == 0
    shown = capsys.readouterr().err
    missed = shown.partition("Just missed")[2]
    # floor(9 x 0.5) shallow, floor(9 x 0.2) middle, the rest deep
    for words in (
        "shallow: next after 4 by specificity",
        "middle: next after 1 by overlap",
        "deep: next after 4 by",
    ):
        assert words in missed


@pytest.mark.parametrize("strategy", CALLS)
def test_the_command_that_a_report_shows_makes_the_mask_again(
    strategy: str, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mask, again = tmp_path / "one.json", tmp_path / "again.json"
    reference = ("--reference", "deu_Latn", "--reference", "eng_Latn") if strategy in {"rise", "gap"} else ()
    assert run(arguments(folder, strategy, *reference, "-o", str(mask))) == 0
    command = mask_command(read_mask(mask))
    if strategy in {"random", "sql"}:
        assert command is None
        return
    words = command.replace("STORE", str(folder / "store")).replace("mask.json", str(again)).split()
    assert run(words[1:]) == 0
    capsys.readouterr()
    assert again.read_bytes() == mask.read_bytes()


def test_a_query_may_come_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "query.sql").write_text(CALLS["sql"][1])
    store = str(folder / "store")
    from_file = printed(capsys, "export", "sql", store, "--run", "run", "--query-file", str(tmp_path / "query.sql"))
    assert from_file == printed(capsys, *arguments(folder, "sql"))


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("rise", "--target swh", "did you mean swh_Latn"),
        ("rise", "--target swh_Latn --reference english", "did you mean eng_Latn"),
        ("rise", "--target swh_Latn --budget 65", "budget 65: run 'run' has 64 experts; pass --budget 1 to 64"),
        (
            "rise",
            "--target swh_Latn --budget 9",
            "only 0 of its 24 experts have 30 routing decisions of swh_Latn or more",
        ),
        ("top-k", "--per-layer 1", "lower --min-count"),
        ("rise", "--target swh_Latn --shallow 0.9", "zone shares 0.9 and 0.25"),
        ("rise", "--target a --run one", "a is the only one; trace or name another"),
        ("rise", "--target eng_Latn --run routes", "run 'routes' has no usage"),
        ("rise", "--target swh_Latn --run other", "no run 'other'"),
        ("gap", "--target a --run one", "a is the only one; trace or name another"),
        ("gap", "--target swh", "did you mean swh_Latn"),
        ("gap", "--target swh_Latn --parent english", "did you mean eng_Latn"),
        ("gap", "--target swh_Latn --shared 9", "shared 9: a layer of run 'run' has 8 experts"),
        ("gap", "--target swh_Latn --layers 9", "layers 9: run 'run' has 8 MoE layers"),
        ("gap", "--target swh_Latn --alpha 0.99", "lower --alpha"),
        ("top-p", "--target swh", "did you mean swh_Latn"),
        ("top-p", "--p 2", "p 2: pass a share above 0 and at most 1"),
        ("top-p", "--run one --score gate", "no gate weights; pass --score token"),
        ("top-k", "--target swh", "did you mean swh_Latn"),
        ("top-k", "--budget 65", "budget 65: run 'run' has 64 experts; pass --budget 1 to 64"),
        ("top-k", "--per-layer 9", "per-layer 9: a layer of run 'run' has 8 experts; pass --per-layer 1 to 8"),
        ("top-k", "--budget 3 --per-layer 1", "not both"),
        ("task", "--against generel", "did you mean general"),
        ("task", "--against deeper", "of other models: MoE layers 2-9 and 2-10"),
        ("task", "--against general --tau 0.99", "lower --tau"),
        ("gap", "--target swh_Latn --parent swh_Latn", "'swh_Latn' cannot borrow its own set"),
        ("gap", "--target swh_Latn", "with at least 30 routing decisions of it"),
        ("random", "--like LIKE --match load --run routes", "of a model whose MoE layers are 2-9, this model's are"),
        ("random", "--like LIKE --exclude nowhere.json", "nowhere.json: cannot be read as a mask"),
        ("random", "--like LIKE --run deeper", "MoE layers are 2-9, this model's are 2-10"),
        ("random", "--like nowhere.json", "nowhere.json: cannot be read as a mask"),
        ("sql", "--query-file nowhere.sql", "nowhere.sql: cannot be read as a query"),
    ],
)
def test_what_cannot_be_exported_is_one_line_on_stderr(
    strategy: str, options: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = options.replace("LIKE", str(folder / "like.json")).split()
    run_name = [] if "--run" in words else ["--run", "run"]
    assert message in failure(capsys, "export", strategy, str(folder / "store"), *run_name, *words)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select 99 as layer, 0 as expert", "layer 99 is no MoE layer of run 'run', which are 2-9"),
        ("select 2 as layer, 8 as expert", "expert 8, but a layer of run 'run' has 8 experts"),
        ("select 2 as layer, 1 as expert from range(2)", "layer 2, expert 1 stands twice"),
        ("select layer, expert from activation where false", "returns no rows"),
        ("select null as layer, 1 as expert", "layer is NULL"),
        ("select layer from activation", "must return layer, expert[, score]"),
        ("selekt", "the query fails: parser: syntax error"),
    ],
)
def test_a_query_that_is_no_selection_is_one_line_on_stderr(
    query: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure(capsys, "export", "sql", str(folder / "store"), "--run", "run", "--query", query)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "moetrace-mask",\n "version": }', "mask.json, line 2, column 13: not valid JSON"),
        ("[]", "mask.json, $: [] is not of type 'object'"),
        ('{"layer": 1, "expert": 900}', "mask.json, $.experts[0]: expert 900, but a layer has 8 experts"),
        ('{"layer": "one", "expert": 1}', "mask.json, $.experts[0].layer: 'one' is not of type 'integer'"),
    ],
)
def test_a_damaged_mask_is_refused_with_the_place(
    content: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if content.startswith('{"layer'):
        mask = json.loads((folder / "like.json").read_text())
        mask["experts"][0] |= json.loads(content)
        if mask["experts"][0]["layer"] == 1:
            mask["experts"][0]["layer"] = 2
        content = json.dumps(mask)
    (tmp_path / "mask.json").write_text(content)
    for args in (
        ("convert", tmp_path / "mask.json", "--format", "esft"),
        ("random", folder / "store", "--run", "run", "--like", tmp_path / "mask.json"),
    ):
        assert message in failure(capsys, "export", *args)


def test_a_file_that_cannot_be_written_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be written" in failure(capsys, *arguments(folder, "top-k", "-o", str(folder / "no" / "mask.json")))


@pytest.mark.parametrize(
    "args",
    [
        ["export", "best", "store"],
        ["export", "rise", "store"],
        ["export", "gap", "store"],
        ["export", "task", "store"],
        ["export", "random", "store"],
        ["export", "top-p", "store", "--score", "tokens"],
        ["export", "top-k", "store", "--reference", "a"],
        ["export", "convert"],
        ["export", "rise", "store", "--target", "a", "--min-count", "-1"],
        ["export", "rise", "store", "--target", "a", "--shrinkage", "-1"],
        ["export", "random", "store", "--like", "a", "--match", "loads"],
        ["export", "random", "store", "--like", "a", "--slack", "1.5"],
    ],
)
def test_wrong_usage_exits_with_2(args: list[str]) -> None:
    assert run(args) == 2


@pytest.mark.parametrize("queries", [(), ("--query", "select 1", "--query-file", "file")])
def test_sql_takes_one_query(queries: tuple[str, ...], folder: Path) -> None:
    assert run(["export", "sql", str(folder / "store"), "--run", "run", *queries]) == 2


def test_exporting_imports_nothing_heavy(folder: Path) -> None:
    calls = [arguments(folder, strategy, "--explain", "-o", str(folder / "out")) for strategy in CALLS]
    # A run that was imported lacks tables.
    write_counts(folder / "bare", make_record("one", ["a"], tables=["usage"]), {"a": np.full((3, 8), 5)}, {"a": 20})
    calls.append(
        ["export", "top-k", str(folder / "bare"), "--budget", "3", "--min-count", "5", "-o", str(folder / "out")]
    )
    calls.append(["export", "convert", str(folder / "like.json"), "--format", "axolotl"])
    program = f"""
import sys
from moetrace.cli.main import run
assert run(["export", "--help"]) == 0
assert not {{"duckdb", "pyarrow", "numpy", "jsonschema"}} & set(sys.modules)
assert all(run(call) == 0 for call in {calls!r})
heavy = {{"torch", "vllm", "transformers", "datasets", "altair", "pandas", "polars", "vl_convert", "scipy"}}
heavy.add("moetrace.tracer")
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

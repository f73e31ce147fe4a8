"""What no import takes: a file that is not what its format says is refused with its name and line, or place."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.cli.main import run as moetrace
from moetrace.store.errors import ImportFormatError, RunMismatchError, StoreError, UnknownNameError
from moetrace.store.read.reader import Store
from tests.support.published import (
    STATS,
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
    from pathlib import Path


@pytest.mark.parametrize(
    ("layer", "line", "content", "message"),
    [
        (4, 2, "0\t1\t0.5\t0.1", "no two tabs; a line is a sequence"),
        (1, 2, "", "no two tabs"),
        (1, 2, "0\t1\t2\t\t0.5\t0.1\t0.1", "3 expert ids are not 2 for each token; say how many a token has"),
        (4, 2, "0\t1\t2\t3\t\t0.5\t0.1\t0.1\t0.1", "2 tokens, but 1 in the same line of {task}/expert_weights_1.txt"),
        (1, 2, "0\t1\t\t0.5", "2 expert ids, but 1 gate weights"),
        (4, 3, "0\t1\t2\t3\t4\tx\t\t1\t1\t1\t1\t1\t1", "an expert id is not one (Failed to parse string: 'x'"),
        (4, 2, "0\t-1\t\t0.5\t0.1", "an expert id is not one"),
        (4, 2, "0\t1.0\t\t0.5\t0.1", "an expert id is not one"),
        (4, 2, "0\tü\t\t0.5\t0.1", "an expert id is not one"),
        (4, 2, "0\t1\t\t0.5\t0,1", "a gate weight is not one (Failed to parse string: '0,1'"),
        (4, 2, "0\t1\t\t0.5\t", "a gate weight is not one"),
        (4, 2, "0\t5\t\t0.5\t0.1", "expert id 5, but the layer has 5 experts"),
        (4, 2, "3\t3\t\t0.5\t0.1", "the same expert twice in one token"),
        (4, 2, "0\t1\t\t0.5\tnan", "a gate weight is NaN, infinite or negative"),
        (4, 2, "0\t1\t\t0.5\tinf", "a gate weight is NaN, infinite or negative"),
        (4, 2, "0\t1\t\t0.5\t-0.1", "a gate weight is NaN, infinite or negative"),
        (4, 2, "0\t1\t\t0.0000\t0.0000", "every gate weight is zero"),
    ],
)
def test_a_malformed_line_is_refused_with_its_file_and_number(
    tmp_path: Path, layer: int, line: int, content: str, message: str
) -> None:
    task = small_task(tmp_path / "task")
    file = task / f"expert_weights_{layer}.txt"
    lines = file.read_text().splitlines()
    lines[line - 1] = content
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ImportFormatError) as refused:
        import_small(tmp_path / "store", f"a={task}")
    assert str(refused.value).startswith(f"{file}, line {line}: {message.format(task=task)}")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "store").exists() or Store(tmp_path / "store").commits == []


@pytest.mark.parametrize(("kept", "line"), [(2, 3), (4, 4)])
def test_layers_of_unequal_length_are_refused_before_anything_is_written(tmp_path: Path, kept: int, line: int) -> None:
    task = small_task(tmp_path / "task")
    file = task / "expert_weights_4.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[0]][:kept]))
    with pytest.raises(
        ImportFormatError, match=rf"expert_weights_4.txt, line {line}: the file has {kept} lines, .* has 3"
    ):
        import_small(tmp_path / "store", f"a={task}")
    assert not (tmp_path / "store").exists()


def test_a_folder_or_archive_that_is_no_task_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportFormatError, match=r"empty: no expert_weights_<layer>.txt in it"):
        import_small(tmp_path / "store", f"a={tmp_path / 'empty'}")
    (tmp_path / "notes.txt").write_text("x" * 2000)
    with pytest.raises(ImportFormatError, match=r"notes.txt: cannot be unpacked as a tar archive"):
        import_small(tmp_path / "store", f"a={tmp_path / 'notes.txt'}")
    tasks = tmp_path / "tasks.tar.gz"
    with tarfile.open(tasks, "w:gz") as archive:
        for name in ("one", "two"):
            archive.add(small_task(tmp_path / name), name)
    with pytest.raises(ImportFormatError, match=r"tasks.tar.gz: holds several tasks \(one, two\)"):
        import_small(tmp_path / "store", f"a={tasks}")
    tasks.write_bytes(tasks.read_bytes()[:-200])
    with pytest.raises(ImportFormatError, match=r"tasks.tar.gz: cannot be unpacked"):
        import_small(tmp_path / "store", f"a={tasks}")
    (tmp_path / "one" / "expert_weights_4.txt").rename(tmp_path / "one" / "expert_weights_3.txt")
    with pytest.raises(ImportFormatError, match=r"b has layers \[1, 4\], a has \[1, 3\]; a run is of one model"):
        import_small(tmp_path / "store", f"a={tmp_path / 'one'}", f"b={tmp_path / 'two'}")
    for file in (tmp_path / "one").iterdir():
        file.write_text("")
    with pytest.raises(ImportFormatError, match=r"expert_weights_1.txt, line 1: the file is empty"):
        import_small(tmp_path / "store", f"a={tmp_path / 'one'}")
    (tmp_path / "two" / "expert_weights_7.txt").mkdir()
    with pytest.raises(ImportFormatError, match=r"expert_weights_7.txt: cannot be read \(Is a directory\)"):
        import_small(tmp_path / "store", f"a={tmp_path / 'two'}")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("file_format", "content", "message"),
    [
        ("usage-json", '{"1": {\n"0": {"activation_tokens": 1\n', "line 3: not valid JSON"),
        ("usage-json", '{"1": NaN}', "line 1: not valid JSON (NaN is not a number)"),
        ("usage-json", '{"1": {"total_tokens": 1, "total_tokens": 2}}', "'total_tokens' stands twice in an object"),
        ("usage-json", "[]", "should be a JSON object, and not an empty one"),
        ("usage-json", '{"one": {}}', "'one' is no layer"),
        ("usage-json", '{"01": {}}', "'01' is no layer"),
        ("usage-json", '{"1": {"0": {"activation_tokens": 1, "gate_values_sum": 1}}}', "layer 1: lacks 'total_tokens'"),
        ("usage-json", '{"1": {"total_tokens": 0}}', "layer 1: no tokens were counted"),
        ("usage-json", '{"1": {"total_tokens": 3}}', "layer 1: no expert was used"),
        ("usage-json", '{"1": {"total_tokens": 3, "-1": {}}}', "layer 1: '-1' is no expert id"),
        ("usage-json", '{"1": {"total_tokens": 3, "0": {}}}', "layer 1, expert 0: should be a JSON object"),
        ("usage-json", '{"1": {"total_tokens": 3, "0": 3}}', "layer 1, expert 0: should be a JSON object"),
        ("usage-json", '{"1": {"total_tokens": 3}, "2": {"total_tokens": 4}}', "layer 2: 4 tokens, layer 1 has 3"),
        (
            "usage-json",
            '{"1": {"total_tokens": 3, "0": {"activation_tokens": 1.5, "gate_values_sum": 1}}}',
            "layer 1, expert 0: 1.5 is no non-negative whole number",
        ),
        (
            "usage-json",
            '{"1": {"total_tokens": 3, "0": {"activation_tokens": 1e999, "gate_values_sum": 1}}}',
            "line 1: 1e999 is no number that a float can hold",
        ),
        (
            "usage-json",
            '{"1": {"total_tokens": 3, "0": {"activation_tokens": 3, "gate_values_sum": -1}}}',
            "layer 1, expert 0: -1 is no non-negative number",
        ),
        (
            "usage-json",
            '{"1": {"total_tokens": 3, "0": {"activation_tokens": 4, "gate_values_sum": 1}}}',
            "layer 1: an expert was chosen 4 times for 3 tokens",
        ),
        (
            "usage-json",
            '{"1": {"total_tokens": 3, "0": {"activation_tokens": 1, "gate_values_sum": 1}}}',
            "layer 1: counts sum to 1, 3 tokens x top-1 are 3",
        ),
        ("rise-stats", "{}", "should be a JSON object, and not an empty one"),
        ("rise-stats", '{"languages": {}}', "lacks 'model_config'"),
        (
            "rise-stats",
            '{"model_config": {"model_type": "x"}, "languages": {"a": {}}}',
            "num_experts_per_layer: does not say it; pass --experts",
        ),
        ("rise-stats", {"0": {"0": 1.5, "1": 0.5}}, "a, layer 0, expert 0: 1.5 is no frequency of one of 5 experts"),
        ("rise-stats", {"0": {"5": 1}}, "a, layer 0, expert 5: 1 is no frequency of one of 5 experts"),
        ("rise-stats", {"0": {"0": -0.5}}, "a, layer 0, expert 0: -0.5 is no non-negative number"),
        ("rise-stats", {"0": {"0": True}}, "a, layer 0, expert 0: True is no non-negative number"),
        ("rise-stats", {"0": {"0": 1, "1": 0.5}}, "a, layer 0: frequencies sum to 1.5, not to top-k, which is 2"),
        ("rise-stats", {"3": {"0": 1, "1": 1}}, "has layer 3, model_config says 3 layers"),
        ("rise-stats", {"0": []}, "a, layer 0: should be a JSON object, and not an empty one"),
        ("rise-stats", {"0.5": {}}, "a: '0.5' is no layer"),
    ],
)
def test_malformed_json_is_refused_with_its_file_and_place(
    tmp_path: Path, file_format: str, content: str | dict[str, Any], message: str
) -> None:
    file = tmp_path / "made.json"
    if isinstance(content, str):
        file.write_text(content)
    else:
        write_stats(file, {"a": content}, experts=5, top_k=2, layers=3)
    with pytest.raises(ImportFormatError) as refused:
        import_files(file_format, tmp_path / "store", f"a={file}")
    assert str(refused.value).startswith(str(file))
    assert message in str(refused.value)
    assert not (tmp_path / "store").exists()


def test_what_is_asked_for_and_what_files_say_must_agree(tmp_path: Path) -> None:
    usage = write_usage(tmp_path / "usage.json", USAGE, 4)
    stats = write_stats(tmp_path / "stats.json", STATS, experts=5, top_k=2, layers=3)
    store = tmp_path / "store"
    with pytest.raises(ImportFormatError, match=r"usage.json: says 2, --top-k says 3"):
        import_files("usage-json", store, f"a={usage}", top_k=3)
    with pytest.raises(ImportFormatError, match=r"usage.json: has expert 4, --experts is 4"):
        import_files("usage-json", store, f"a={usage}", experts=4)
    with pytest.raises(ImportFormatError, match=r"num_experts_per_layer: says 5, --experts says 6"):
        import_files("rise-stats", store, str(stats), experts=6)
    with pytest.raises(UnknownNameError, match=r"has no language 'swa_Latn'; did you mean swh_Latn"):
        import_files("rise-stats", store, f"swa_Latn={stats}")
    with pytest.raises(StoreError, match=r"eng_Latn: stands in .* and in .*; say which with eng_Latn=PATH"):
        import_files("rise-stats", store, str(stats), f"eng_Latn={stats}")
    other = write_stats(tmp_path / "other.json", STATS, experts=5, top_k=2, layers=4)
    with pytest.raises(ImportFormatError, match=r"other.json: its model_config is not that of .*stats.json"):
        import_files("rise-stats", store, f"eng_Latn={stats}", f"swh_Latn={other}")
    four = write_usage(tmp_path / "four.json", USAGE * 2, 4)
    with pytest.raises(ImportFormatError, match=r"four.json: top-4, .*usage.json top-2; a run is of one model"):
        import_files("usage-json", store, f"a={usage}", f"b={four}")
    assert not store.exists()


def test_other_files_or_settings_under_the_same_run_are_refused_naming_the_field(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    import_small(tmp_path / "store", f"a={task}")
    with pytest.raises(RunMismatchError, match=r"settings.weight_precision: 'f16' in the store, 'f32' now"):
        import_small(tmp_path / "store", f"a={task}", weight_precision="f32")
    with pytest.raises(RunMismatchError, match=r"model.id: 'unknown' in the store, 'Made-Up' now"):
        import_small(tmp_path / "store", f"a={task}", model_id="Made-Up")
    write_task(task, random_task(2, (2, 1, 3)))
    with pytest.raises(RunMismatchError, match=r"\(corpus.sha256: "):
        import_small(tmp_path / "store", f"a={task}")


def failure(capsys: pytest.CaptureFixture[str], *args: object, code: int = 1) -> str:
    assert moetrace(["import", *map(str, args)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if code == 1:
        assert captured.err.startswith("moetrace: ")
        assert len(captured.err.splitlines()) == 1
    return captured.err


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = small_task(tmp_path / "task")
    into = ("--store", tmp_path / "store", "--run", "made", "--top-k", 2)
    assert f"which language is it? write LANG={task}" in failure(capsys, "esft", task, *into)
    assert "nowhere: no such file or folder" in failure(capsys, "esft", f"a={tmp_path / 'nowhere'}", *into)
    assert "language code 'a b'" in failure(capsys, "esft", f"a b={task}", *into)
    assert "a: two sources for one language" in failure(capsys, "esft", f"a={task}", f"a={task}", *into)
    assert "run name 'a/b'" in failure(capsys, "esft", f"a={task}", *into, "--run", "a/b")
    assert "expert_weights_1.txt, line 1: " in failure(capsys, "esft", f"a={task}", *into, "--experts", 2)
    assert "cannot be read (Is a directory)" in failure(capsys, "usage-json", f"a={task}", *into)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    into = ("--store", tmp_path / "folder", "--run", "made", "--top-k", 2)
    assert "not empty and not a moetrace store" in failure(capsys, "esft", f"a={task}", *into)


def test_wrong_usage_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = ("--store", tmp_path / "store", "--run", "made")
    assert "Invalid value for 'FORMAT'" in failure(capsys, "csv", "a=b", *into, code=2)
    assert "Missing argument" in failure(capsys, "esft", *into, code=2)
    assert "Missing option '--run'" in failure(capsys, "esft", "a=b", "--store", "x", code=2)
    assert "Invalid value for '--top-k'" in failure(capsys, "esft", "a=b", *into, "--top-k", 0, code=2)

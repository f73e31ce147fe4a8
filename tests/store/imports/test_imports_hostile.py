"""Files that were made to hurt: refused in one line, in memory that their size bounds, with nothing in the store."""

from __future__ import annotations

import json
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from moetrace.store.errors import ImportFormatError, MoetraceError
from moetrace.store.imports import esft, layer_files
from moetrace.store.progress import Progress
from moetrace.store.verify.verify import verify
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
    from collections.abc import Callable
    from pathlib import Path

    from moetrace.store.format.records import CommitRecord

MOST = 24 << 20  # bytes of memory that refusing a small file may take; 1 GB and more where sizes are believed


def refused(file_format: str, store: Path, *sources: str, **options: Any) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(MoetraceError) as error:
            import_files(file_format, store, *sources, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000
    assert not store.exists()
    return str(error.value)


def usage_of(layers: dict[int, list[int]]) -> str:
    used = {"activation_tokens": 4, "gate_values_sum": 1}
    return json.dumps(
        {layer: {**dict.fromkeys(map(str, ids), used), "total_tokens": 4} for layer, ids in layers.items()}
    )


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            usage_of({layer: [0] for layer in range(2000)} | {65535: [65535]}),
            {},
            "2,001 layers of 65,536 experts are more",
        ),
        (
            usage_of({layer: [0] for layer in range(2000)}),
            {"experts": 65536},
            "2,000 layers of 65,536 experts are more",
        ),
        (usage_of({65536: [0]}), {}, "'65536' is no layer"),
        (usage_of({1: [65536]}), {}, "'65536' is no expert id"),
        (f'{{"{"1" * 4999}": 1}}', {}, "line 1: a name of more than 256 characters"),
        ('{"٣": {}}', {}, "'٣' is no layer"),
        ('{"1": {"total_tokens": 1152921504606846976}}', {}, "is more than 35,184,372,088,832, the most that is read"),
        ('{"1": {"total_tokens": 1%s}}' % ("0" * 400), {}, "is more than 35,184,372,088,832"),
        ('{"1": {"total_tokens": 1%s}}' % ("0" * 5000), {}, "line 1: not valid JSON (Exceeds the limit"),
        ('{"1": {"total_tokens": [%s]}}' % ("1," * 9999 + "1"), {}, "1, 1, 1] is no non-negative whole number"),
        ('{"1": {"total_tokens": "%s"}}' % ("\\n" * 9999), {}, "is no non-negative whole number"),
        ('{"1": ' * 100_000, {}, "line 1: objects and lists are nested deeper than 64"),
        ('{"1": {"a\\u001b[2J": 1}}', {}, r"'a\x1b[2J' is no expert id"),
    ],
)
def test_usage_json_that_hurts(content: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_text(content, encoding="utf-8")
    assert message in refused("usage-json", tmp_path / "store", f"a={tmp_path / 'usage.json'}", **options)


@pytest.mark.parametrize(
    ("config", "languages", "message"),
    [
        ({"num_experts_per_layer": 2**40}, {"a": {"0": {"0": 1}}}, "is more than 65,536, the most that is read"),
        ({"num_experts_per_layer": 0}, {"a": {"0": {"0": 1}}}, "of one of 0 experts"),
        (
            {"num_experts_per_layer": 65536, "num_layers": None},
            {"a": {str(layer): {"0": 1, "1": 1} for layer in range(3000)}},
            "3,000 layers of 65,536 experts are more",
        ),
        ({"model_type": {"a": [1]}}, STATS, "model_config, model_type: {'a': [1]} is no name of at most 256"),
        ({"model_type": "a\nb"}, STATS, r"'a\nb' is no name of at most 256 printable characters"),
        ({"model_path": "x" * 10_000}, STATS, "is no name of at most 256 printable characters"),
        ({"model_path": "\ud800"}, STATS, "holds a text that is no Unicode"),
        ({}, {"a\nb": {}}, r"'a\nb' is no language code"),
        ({}, {"x" * 200: {}}, "is no language code"),
        ({}, {f"l{number}": {} for number in range(4097)}, "more than 4,096 languages"),
    ],
)
def test_rise_stats_that_hurt(config: dict[str, Any], languages: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = write_stats(tmp_path / "stats.json", {}, experts=5, top_k=2, layers=3)
    content = json.loads(file.read_text())
    content["model_config"] |= config
    file.write_text(json.dumps({**content, "languages": languages}))
    assert message in refused("rise-stats", tmp_path / "store", str(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"0\t1\t\t0.5\t" + b"9" * 5000, "line 2: a gate weight is NaN, infinite"),
        (b"0\t" + b"x" * 100_000 + b"\t\t0.5\t0.1", "line 2: an expert id is not one (Failed to parse string: 'xxx"),
        (b"0\t1\x1b[2J\t\t0.5\t0.1", r"'1\x1b[2J'"),
        (b"0\t1\t\t0.5\t1e400", "line 2: a gate weight is NaN, infinite"),
        (b"0\t1\t\t0.5\t3e38", "line 2: a gate weight is more than 65,536"),
        (b"0\t65535\t\t0.5\t0.1", "line 2: expert id 65535, but the layer has 5 experts"),
        (b"0\t65536\t\t0.5\t0.1", "line 2: an expert id is not one"),
        (b"0\t1\t\t0.5\t0.1\r0\t1\t\t0.5\t0.1", "line 2: "),
        (b"\xff\xfe\t1\t\t0.5\t0.1", "line 2: an expert id is not one"),
    ],
)
def test_lines_that_hurt(line: bytes, message: str, tmp_path: Path) -> None:
    file = small_task(tmp_path / "task") / "expert_weights_4.txt"
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(ImportFormatError) as error:
        import_small(tmp_path / "store", f"a={tmp_path / 'task'}")
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("layer", [1, 4])
def test_a_line_without_an_end_is_not_read_into_memory(layer: int, tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    with (task / f"expert_weights_{layer}.txt").open("wb") as file:
        file.truncate(1 << 40)
    message = refused("esft", tmp_path / "store", f"a={task}", top_k=2, experts=5)
    assert f"expert_weights_{layer}.txt, line 1: more than 8,388,608 bytes; a line is one sequence" in message


def test_many_experts_and_lengths_do_not_multiply(tmp_path: Path) -> None:
    """Decisions are counted by expert and length: 255 lengths of 65,536 experts would take 400 MB."""
    lines = ["0\t" * length + "\t" + "\t".join(["1"] * length) for length in range(1, 256)]
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "expert_weights_0.txt").write_text("\n".join(lines))
    tracemalloc.start()
    result = import_files("esft", tmp_path / "store", f"a={tmp_path / 'task'}", top_k=1, experts=65536)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.written_shards == 8
    assert peak < 100 << 20
    assert verify(tmp_path / "store").problems == []


def test_a_sequence_of_more_tokens_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esft, "MOST_TOKENS", 2)
    message = refused("esft", tmp_path / "store", f"a={small_task(tmp_path / 'task')}", top_k=2, experts=5)
    assert message.endswith("expert_weights_1.txt, line 3: a sequence of more than 2 tokens")


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (os.mkfifo, "not a regular file"),
        (lambda file: file.symlink_to("/dev/zero"), "not a regular file"),
        (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
        (lambda file: file.symlink_to("nowhere"), "No such file or directory"),
        (os.mkdir, "Is a directory"),
    ],
)
def test_what_is_no_layer_file_is_not_waited_for(put: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    file = small_task(tmp_path / "task") / "expert_weights_4.txt"
    file.unlink()
    put(file)
    message = refused("esft", tmp_path / "store", f"a={tmp_path / 'task'}", top_k=2, experts=5)
    assert message == f"{file}: cannot be read ({why})"


def test_a_link_to_a_layer_file_is_followed(tmp_path: Path) -> None:
    task = small_task(tmp_path / "task")
    (task / "expert_weights_4.txt").rename(tmp_path / "blob")
    (task / "expert_weights_4.txt").symlink_to("../blob")
    assert import_small(tmp_path / "store", f"a={task}").written_shards == 1


@pytest.mark.parametrize("file_format", ["esft", "usage-json", "rise-stats"])
def test_a_pipe_is_no_source(file_format: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "(not a regular file)" in refused(file_format, tmp_path / "store", f"a={tmp_path / 'pipe'}")
    assert "File name too long" in refused(file_format, tmp_path / "store", f"a={tmp_path / ('x' * 300)}")


def test_more_layers_or_experts_than_any_model_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_task(tmp_path / "task", random_task(1, (1,), range(9)))
    assert "9 layers of 65,536 experts are more than 524,288" in refused(
        "esft", tmp_path / "store", f"a={task}", top_k=2, experts=65536
    )
    assert "--top-k 256: a token has at most 255 experts" in refused("esft", tmp_path / "store", f"a={task}", top_k=256)
    monkeypatch.setattr(layer_files, "MOST_FILES", 8)
    assert "9 layer files, more than 8 layers" in refused("esft", tmp_path / "store", f"a={task}")


class Changing(Progress):
    """Somebody who writes to a file once the first shard is in the store."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def committed(self, commit: CommitRecord) -> None:  # noqa: ARG002  the interface of a Progress
        self.file.write_bytes(self.file.read_bytes())


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    from moetrace.store.imports import FORMATS, ImportRequest, Source

    task = small_task(tmp_path / "task")
    request = ImportRequest((Source(task, "a"),), "run", top_k=2, experts=5, shard_tokens=2)
    with pytest.raises(ImportFormatError, match=r"was changed while it was read; import it again"):
        FORMATS["esft"](tmp_path / "store", request, Changing(task / "expert_weights_4.txt"))


def test_counts_of_many_languages_are_made_one_at_a_time(tmp_path: Path) -> None:
    peaks = []
    for count in (2, 12):
        files = [f"l{number}={write_usage(tmp_path / f'{number}.json', USAGE, 4)}" for number in range(count)]
        tracemalloc.start()
        import_files("usage-json", tmp_path / "store", *files, run=f"run{count}", experts=65536)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]

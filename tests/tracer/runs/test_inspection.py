"""`moetrace inspect` says what a trace would record, quickly, without a weight, and in one line where it cannot."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from moetrace.cli.inspection import duration, inspect
from moetrace.cli.main import run
from moetrace.store.errors import MoetraceError
from moetrace.store.mask import in_spans
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.model.checkpoint import read_checkpoint
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.runs.inspection import inspect_model, matmul_rate, rule_in_words
from tests.support.stores import make_record, make_shard, make_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 6,
    "first_k_dense_replace": 2,
    "moe_layer_freq": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "hidden_size": 8,
    "moe_intermediate_size": 4,
    "max_position_embeddings": 128,
}


def checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tensors:
        from safetensors.numpy import save_file

        save_file(tensors, folder / "model.safetensors", metadata={"format": "np"})
    return folder


def printed(*args: object) -> str:
    result = CliRunner().invoke(inspect, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_bundled_model_and_corpus_are_counted() -> None:
    record = json.loads(printed("bundled", "--corpus", "bundled", "--lang", "eng_Latn", "--lang", "swh_Latn", "--json"))
    assert record["model"]["moe_layers"] == list(range(8))
    assert (record["model"]["num_experts"], record["model"]["top_k"], record["model"]["window"]) == (32, 4, 1024)
    assert record["store"]["decisions_per_token"] == 32
    assert record["store"]["routes_bytes_per_token"] == pytest.approx({"bf16": 32 * 1.83, "f16": 32 * 2.35})
    assert record["corpus"]["texts"] == {"eng_Latn": 60, "swh_Latn": 60}
    assert record["corpus"]["tokens"] == {"eng_Latn": 1633, "swh_Latn": 2014}
    assert record["corpus"]["flops_per_second"] > 0
    active, tokens = record["model"]["active_parameters"], sum(record["corpus"]["tokens"].values())
    assert record["corpus"]["rough_seconds"] == 2 * active * tokens / record["corpus"]["flops_per_second"]
    text = printed("bundled", "--corpus", "bundled", "--lang", "swh_Latn", "--sample", 7)
    assert "7 texts" in text
    assert "rough time" in text
    assert "rough time" not in printed("bundled", "--corpus", "bundled", "--lang", "swh_Latn", "--no-time")


def test_the_parameters_are_those_that_the_weights_have() -> None:
    pytest.importorskip("torch")
    from safetensors.torch import load_file

    found, held = inspect_model(str(MODEL)), load_file(MODEL / "model.safetensors")
    sizes = {name: math.prod(tensor.shape) for name, tensor in held.items()}
    experts = sum(size for name, size in sizes.items() if ".experts." in name)
    assert found.parameters == sum(sizes.values())
    assert found.facts.parameters_per_expert * found.router_values == experts
    assert found.active_parameters == sum(sizes.values()) - experts * (32 - 4) // 32


def test_dense_layers_shared_experts_and_groups_are_named(tmp_path: Path) -> None:
    text = printed(checkpoint(tmp_path / "deepseek", DEEPSEEK))
    assert "MoE layers    4 of 6: 2-5" in text
    assert "16 a layer, 4 chosen for each token, and 1 shared that every token takes" in text
    assert (
        "sigmoid of each logit; the 4 experts with the highest score plus a learned bias among the 2 best of 4 groups "
        "(a group counts the sum of the two best of its experts); weights are the scores made to sum to 1, times 2.5"
    ) in text
    assert "96 an expert; the model's are not known" in text


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (RoutingRule("softmax", normalized=False), "weights are the scores as they are"),
        (RoutingRule("softmax", normalized=False, sparsemixer=0.01), "one by one.*SparseMixer, epsilon 0.01"),
        (
            RoutingRule("softmax", normalized=True, groups=4, groups_kept=2),
            "2 best of 4 groups .a group counts the best",
        ),
    ],
)
def test_every_rule_has_words(rule: RoutingRule, words: str) -> None:
    import re

    assert re.search(words, rule_in_words(rule, 2))


def test_a_packed_checkpoint_says_its_bytes_and_not_a_wrong_number(tmp_path: Path) -> None:
    packed = {"blocks": np.zeros((4, 8), dtype=np.uint8), "norm": np.zeros(3, dtype=np.float32)}
    folder = checkpoint(tmp_path / "packed", DEEPSEEK, packed)
    found = read_checkpoint(str(folder))
    assert found is not None
    assert (found.parameters, found.bytes) == (None, 44)
    assert "packed (44 bytes of weights)" in printed(folder)


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:20], lambda _: b"<html>not here</html>"])
def test_a_checkpoint_that_was_cut_short_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any
) -> None:
    folder = checkpoint(tmp_path / "cut", DEEPSEEK, {"norm": np.zeros(30, dtype=np.float32)})
    file = folder / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(MoetraceError, match="download it again"):
        read_checkpoint(str(folder))
    assert run(["inspect", str(folder)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_no_moe_model_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = checkpoint(tmp_path / "dense", {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", encoding="utf-8")
    for folder, words in (
        (dense, "names no experts"),
        (tmp_path, "no config.json"),
        (tmp_path / "broken", "Expecting"),
    ):
        assert run(["inspect", str(folder)]) == 1
        err = capsys.readouterr().err
        assert words in err
        assert len(err.splitlines()) == 1


def test_an_unknown_family_is_said_to_be_a_guess(tmp_path: Path) -> None:
    config = {**DEEPSEEK, "model_type": "someones_moe"}
    assert "someones_moe (not in the family table" in printed(checkpoint(tmp_path / "new", config))


class Hub(BaseHTTPRequestHandler):
    """The bundled model as a hub serves it: files of one repository and revision, in ranges; notes what it sent."""

    sent = 0

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        file = MODEL / self.path.removeprefix("/someone/micro/resolve/main/")
        if not self.path.startswith("/someone/micro/resolve/main/") or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, asked = file.read_bytes(), self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{file.name}"')
        self.send_header("X-Repo-Commit", "c0ffee")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            type(self).sent += len(data)
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_of_the_hub_is_inspected_by_its_headers_alone(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}

    def inspected(model: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "moetrace.cli.main", "inspect", model, "--json"]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    done = inspected("someone/micro")
    assert done.returncode == 0, done.stderr
    here = inspect_model(str(MODEL))
    model = json.loads(done.stdout)["model"]
    assert (model["parameters"], model["checkpoint_bytes"]) == (here.parameters, here.checkpoint.bytes)
    assert model["config_sha256"] == here.facts.config_sha256
    assert Hub.sent < 200_000 < here.checkpoint.bytes
    missing = inspected("someone/else")
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1
    # Its config is in the cache now: without a network the sizes of its weights are not known, and all else is.
    hub.shutdown()
    hub.server_close()
    alone = json.loads(inspected("someone/micro").stdout)["model"]
    assert (alone["parameters"], alone["num_experts"]) == (None, 32)


def test_inspecting_a_model_imports_neither_torch_nor_vllm_nor_transformers() -> None:
    code = (
        "import sys; from moetrace.cli.main import run; run(['inspect', 'bundled']); "
        "print([name for name in ('torch', 'vllm', 'transformers', 'datasets', 'duckdb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_estimate_of_a_store_adds_up_and_grows_with_each_part() -> None:
    found = inspect_model(str(MODEL))
    one = found.store_bytes(1000, 10, 1)
    assert one["bf16"] == {"routes": 58560, "profiles": 8576, "usage": 8781, "tokens": 2620, "sequences": 384}
    more_experts = replace(found, facts=replace(found.facts, num_experts=64)).store_bytes(1000, 10, 1)
    assert more_experts["f16"]["profiles"] == 2 * one["f16"]["profiles"]
    assert more_experts["f16"]["routes"] == one["f16"]["routes"] == 75200


def test_memory_is_what_the_arrays_of_a_shard_take() -> None:
    record = make_record(run="one")
    found = inspect_model(str(MODEL))
    facts = replace(
        found.facts, moe_layers=tuple(record.moe_layers), top_k=record.top_k, num_experts=record.model["num_experts"]
    )
    shard = make_shard(record, "eng_Latn", 0, 0, make_world(1, record).texts["eng_Latn"])
    arrays = (shard.experts, shard.weights, shard.profiles)
    expected = sum(array.nbytes for array in arrays if array is not None)
    assert replace(found, facts=facts).memory(shard.tokens, len(shard.seqs)) == expected


def test_the_rate_is_measured_in_a_fraction_of_a_second() -> None:
    assert 1e6 < matmul_rate(seconds=0.05, size=256) < 1e15


def test_layers_anddurations_read_well() -> None:
    assert in_spans((1, 2, 3, 5, 7, 8)) == "1-3, 5, 7-8"
    assert [duration(seconds) for seconds in (0.2, 90, 600, 20_000, 400_000)] == [
        "under a second",
        "90 s",
        "10 min",
        "6 h",
        "5 days",
    ]

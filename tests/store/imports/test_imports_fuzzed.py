"""Files at random and at their worst: each is read, or refused in one line, in ten times its memory and a base.

`make fuzz-imports` goes on for an hour.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from moetrace.store.imports.esft import MOST_TOKENS
from tests.fuzz.cases import KINDS, Case
from tests.fuzz.imports import check_case, fuzz
from tests.support.examples import FULL, examples

if TYPE_CHECKING:
    from pathlib import Path

CASES, PARTS = 400, 4
MODEL = b'{"num_experts_per_layer":65536,"num_experts_per_tok":1}'

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")


@pytest.mark.parametrize("part", range(PARTS))
def test_files_at_random_are_read_or_refused(part: int) -> None:
    count = examples(CASES // PARTS).max_examples
    came, _ = fuzz(range(part * FULL * CASES, part * FULL * CASES + count))
    assert sum(came.values()) == count
    if count >= FULL:
        assert {f"{kind} refused" for kind in KINDS} <= came.keys()


def task(folder: Path, line: bytes, layers: int = 1) -> Path:
    folder.mkdir()
    for layer in range(layers):
        (folder / f"expert_weights_{layer}.txt").write_bytes(line)
    return folder


def file(folder: Path, content: bytes) -> Path:
    folder.write_bytes(content)
    return folder


USED = {"activation_tokens": 4, "gate_values_sum": 1}
WORST = {  # what takes most memory for its size, of all that is found so far
    "a sequence of half a million tokens": lambda path: Case(
        "esft",
        task(path, (b"0\t" * MOST_TOKENS)[:-1] + b"\t\t" + (b"1\t" * MOST_TOKENS)[:-1] + b"\n"),
        {"top_k": 1},
    ),
    "as many layers as there may be": lambda path: Case(
        "esft", task(path, b"0\t\t1\n", 512), {"top_k": 1, "experts": 1024}
    ),
    "as many experts as there may be": lambda path: Case(
        "usage-json",
        file(path, json.dumps({layer: {"0": USED, "total_tokens": 4} for layer in range(8)}).encode()),
        {"experts": 65536},
    ),
    "as many experts in many languages": lambda path: Case(
        "rise-stats",
        file(
            path,
            b'{"model_config":%s,"languages":{%s}}'
            % (MODEL, b",".join(b'"l%d":{"0":{"0":1},"7":{"9":1}}' % number for number in range(20))),
        ),
    ),
    "a character that makes the text four times as wide": lambda path: Case(
        "usage-json", file(path, b'{"0":{"x":"' + b"x" * (30 << 20) + "\N{GRINNING FACE}".encode() + b'"}}')
    ),
    "names of a mask": lambda path: Case(
        "mask", file(path, b'{"a":{%s}}' % b",".join(b'"%x":1' % number for number in range(500_000)))
    ),
    "lists of a mask": lambda path: Case("mask", file(path, b'{"experts":[%s0]}' % (b"[]," * 1_700_000))),
}


@pytest.mark.parametrize("name", WORST)
def test_the_worst_files_take_ten_times_their_size_and_a_base(name: str, tmp_path: Path) -> None:
    came, _ = check_case(WORST[name](tmp_path / "source"), tmp_path / "store")
    assert came.startswith("read" if name[0] == "a" and "wide" not in name else "refused")

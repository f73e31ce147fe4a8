"""Digests of ids on disk are the ones in memory: sets of them, and which come twice."""

from __future__ import annotations

import gc
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.errors import MoetraceError
from moetrace.tracer.corpus import ids as ids_module
from moetrace.tracer.corpus.ids import DigestSet, IdDigests
from tests.support.examples import examples

IDS = st.lists(st.integers(0, 60).map(str), max_size=80)


@pytest.fixture(autouse=True, scope="module")
def _small_runs() -> object:
    """Nine digests are many: runs and blocks of a few."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ids_module, "RUN", 9)
        patched.setattr(ids_module, "BLOCK", 2)
        yield


def of(texts: list[str], seed: int = 0) -> IdDigests:
    found = IdDigests(seed)
    for text in texts:
        found.add(text)
    return found


def values(found: IdDigests | DigestSet) -> list[int]:
    return [int(digest) for block in found.blocks() for digest in block]


@given(IDS)
@examples(60)
def test_blocks_hold_every_digest_in_order_and_repeats_are_found(texts: list[str]) -> None:
    found = of(texts)
    counted = Counter(found.digest(text) for text in texts)
    assert len(found) == len(texts)
    assert values(found) == sorted(counted.elements())
    assert set(found.repeats()) == {digest for digest, count in counted.items() if count > 1}


@given(IDS, IDS)
@examples(60)
def test_sets_are_pythons_sets(one: list[str], other: list[str]) -> None:
    digest = IdDigests().digest
    mine, theirs = DigestSet(of(one).blocks()), DigestSet(of(other).blocks())
    union, shared = mine.union(of(other).blocks()), mine.intersection(theirs)
    assert values(union) == sorted(set(map(digest, one + other)))
    assert values(shared) == sorted(set(map(digest, one)) & set(map(digest, other)))
    assert (len(union), len(shared)) == (len(set(one + other)), len(set(one) & set(other)))
    assert union.first(5).tolist() == values(union)[:5]


def test_digests_take_eight_bytes_and_differ_by_seed() -> None:
    one, other = (np.concatenate(list(of(["a", "a" * 10_000], seed).blocks())) for seed in (0, 1))
    assert (one.dtype, one.nbytes) == (np.uint64, 16)
    assert not set(one.tolist()) & set(other.tolist())


def test_the_files_have_no_name_and_go_with_their_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def open_here() -> int:
        links = (file for file in Path("/proc/self/fd").iterdir() if file.is_symlink())
        return sum(str(file.readlink()).startswith(str(tmp_path)) for file in links)

    found = of([str(number) for number in random.sample(range(1000), 100)])
    made = DigestSet(found.blocks())
    assert (open_here(), list(tmp_path.iterdir())) == (2, [])
    del found, made
    gc.collect()
    assert open_here() == 0


def test_a_full_disk_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Path("/dev/full").open("wb", buffering=0))  # noqa: SIM115
    with pytest.raises(MoetraceError, match=r"cannot keep the ids of the corpus there .*8 bytes a text.*set TMPDIR"):
        of([str(number) for number in range(9)])

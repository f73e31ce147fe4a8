"""A corpus is cut into the same shards every time, no token is lost or doubled, and none stays in memory."""

from __future__ import annotations

import gc
import hashlib
import json
import pickle
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.store.errors import MoetraceError
from moetrace.tracer.corpus.corpus import open_corpus
from moetrace.tracer.plan.plan import Plan, make_plan
from moetrace.tracer.plan.shards import PlannedShard
from moetrace.tracer.plan.spool import LOADED
from moetrace.tracer.plan.token_filter import TokenFilter
from tests.support.examples import examples


def encode(texts: list[str]) -> list[list[int]]:
    return [[ord(character) for character in text] for text in texts]


def plan(folder: Path, texts: dict[str, dict[str, str]], **options: object) -> Plan:
    for lang, rows in texts.items():
        lines = [json.dumps({"id": key, "text": text}) for key, text in rows.items()]
        (folder / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return make_plan(open_corpus(str(folder)), encode, **{"shard_tokens": 10, "window": 100, **options})


@given(st.lists(st.text("abc", min_size=1, max_size=14), min_size=1, max_size=12), st.integers(1, 20))
@examples(15)
def test_shards_hold_every_token_once_in_order_and_no_more_than_they_should(texts: list[str], size: int) -> None:
    with TemporaryDirectory() as folder:
        made = plan(Path(folder), {"eng": {str(i): text for i, text in enumerate(texts)}}, shard_tokens=size)
    assert ["".join(map(chr, ids)) for shard in made.shards for ids in shard.token_ids] == texts
    assert [seq for shard in made.shards for seq in shard.seqs.tolist()] == list(range(len(texts)))
    assert [shard.number for shard in made.shards] == list(range(len(made.shards)))
    assert all(shard.tokens <= size or len(shard.seqs) == 1 for shard in made.shards)


def test_the_same_corpus_gives_the_same_digest_and_another_text_gives_another(tmp_path: Path) -> None:
    one = plan(tmp_path, {"eng": {"a": "xy"}}).corpus_sha256
    assert plan(tmp_path, {"eng": {"a": "xy"}}).corpus_sha256 == one
    assert plan(tmp_path, {"eng": {"a": "xz"}}).corpus_sha256 != one


def test_a_language_of_which_a_filter_leaves_nothing_is_refused_and_the_cut_is_of_all_tokens(tmp_path: Path) -> None:
    texts = {"eng": {"a": "xyz", "b": "x"}, "swh": {"a": "xy", "b": "yx"}}
    made = plan(tmp_path, texts, token_filter=TokenFilter(skip_positions=1))
    assert [(shard.lang, shard.tokens) for shard in made.shards] == [("eng", 4), ("swh", 4)]
    with pytest.raises(MoetraceError, match="leave no token of any text of swh; skip fewer positions"):
        plan(tmp_path, texts, token_filter=TokenFilter(skip_positions=2), shard_tokens=2)
    with pytest.raises(MoetraceError, match="leave no token of any text of swh"):
        plan(tmp_path, texts, token_filter=TokenFilter(special=(ord("x"), ord("y"))))


def test_ids_that_some_languages_lack_are_counted(tmp_path: Path) -> None:
    made = plan(tmp_path, {"eng": {"a": "x", "b": "y", "c": "z"}, "swh": {"a": "x"}, "deu": {"a": "x", "c": "y"}})
    assert made.missing == {"swh": 2, "deu": 1}
    assert made.pivot == "eng"


def test_a_long_text_is_truncated_and_counted_or_refused(tmp_path: Path) -> None:
    made = plan(tmp_path, {"eng": {"a": "xxxxx", "b": "yy"}}, window=3)
    assert made.shards[0].lengths.tolist() == [3, 2]
    assert made.shards[0].truncated.tolist() == [True, False]
    assert made.truncated == 1
    with pytest.raises(MoetraceError, match="text 'a' of eng has 5 tokens, the window is 3"):
        plan(tmp_path, {"eng": {"a": "xxxxx"}}, window=3, on_long="error")


def test_a_limit_takes_the_first_texts_of_each_language(tmp_path: Path) -> None:
    made = plan(tmp_path, {"eng": {"a": "x", "b": "y"}, "swh": {"a": "x", "b": "y"}}, limit=1)
    assert [shard.text_ids for shard in made.shards] == [("a",), ("a",)]


def test_a_pivot_that_is_not_in_the_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoetraceError, match="--pivot fra: not a language"):
        plan(tmp_path, {"eng": {"a": "x"}}, pivot="fra")


WORDS = st.lists(st.text("abc é", min_size=1, max_size=14).filter(str.strip), min_size=1, max_size=30)


def cut_in_memory(lang: str, texts: list[str], shard_tokens: int, window: int) -> list[PlannedShard]:
    """Cut one language by the rule itself, in memory: a text that would not fit whole begins the next shard."""
    encoded = [np.array(ids[:window], dtype=np.int32) for ids in encode(texts)]
    starts = [0]
    for index in range(1, len(encoded)):
        if sum(map(len, encoded[starts[-1] : index + 1])) > shard_tokens:
            starts.append(index)
    shards = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(texts)], strict=True)):
        seqs = np.arange(start, end, dtype=np.int32)
        truncated = np.array([len(text) > window for text in texts[start:end]])
        ids = tuple(f"t{seq}" for seq in seqs)
        shards.append(PlannedShard(lang, number, seqs, ids, truncated, tuple(encoded[start:end])))
    return shards


def assert_same_bytes(one: PlannedShard, other: PlannedShard) -> None:
    assert (one.key, one.text_ids, one.tokens, one.texts) == (other.key, other.text_ids, other.tokens, other.texts)
    assert one.truncated_texts == other.truncated_texts
    for name in ("seqs", "truncated", "lengths"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine.dtype, mine.tobytes()) == (theirs.dtype, theirs.tobytes()), name
    assert [(ids.dtype, ids.tobytes()) for ids in one.token_ids] == [
        (ids.dtype, ids.tobytes()) for ids in other.token_ids
    ]


@given(texts=WORDS, size=st.integers(1, 30), window=st.integers(2, 14))
@examples(15)
def test_a_spooled_plan_is_byte_for_byte_the_cut_in_memory(texts: list[str], size: int, window: int) -> None:
    rows = {f"t{number}": text for number, text in enumerate(texts)}
    with TemporaryDirectory() as folder:
        made = plan(Path(folder), {"eng": rows, "swh": rows}, shard_tokens=size, window=window)
    expected = [shard for lang in ("eng", "swh") for shard in cut_in_memory(lang, texts, size, window)]
    assert len(made.shards) == len(expected)
    for one, other in zip(made.shards, expected, strict=True):
        assert_same_bytes(one, other)
    digest = hashlib.sha256()
    for lang in ("eng", "swh"):
        for key, text in rows.items():
            digest.update(f"{lang}\0{key}\0{text}\0".encode())
    assert made.corpus_sha256 == digest.hexdigest()


def many(tmp_path: Path, shards: int) -> Plan:
    return plan(tmp_path, {"eng": {str(n): "abcdefghij" for n in range(shards)}})


def test_shards_are_read_when_their_tokens_are_asked_for_and_only_a_few_stay(tmp_path: Path) -> None:
    made = many(tmp_path, shards=3 * LOADED)
    spool = made.spool
    assert spool is not None
    assert (made.tokens, made.texts, made.truncated, len(made.shards)) == (30 * LOADED, 3 * LOADED, 0, 3 * LOADED)
    made.corpus_record()
    assert len(spool._loaded) == 0
    for shard in made.shards:
        assert sum(map(len, shard.token_ids)) == shard.tokens
    assert len(spool._loaded) == LOADED
    assert made.shards[0].token_ids[0].tolist() == [ord(character) for character in "abcdefghij"]


def open_files() -> set[str]:
    return {str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_the_spool_has_no_name_and_goes_with_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before = {name for name in open_files() if str(folder) in name}
    made = many(tmp_path, shards=2)
    assert [name for name in open_files() if str(folder) in name], "the spool is a file in the temporary folder"
    assert not list(folder.iterdir())
    shard = made.shards[1]
    made.close()
    assert {name for name in open_files() if str(folder) in name} == before
    with pytest.raises(RuntimeError, match="the plan is closed"):
        _ = shard.token_ids
    forgotten = weakref.ref(many(tmp_path, shards=2).spool)
    gc.collect()
    assert forgotten() is None
    assert {name for name in open_files() if str(folder) in name} == before


def test_a_shard_that_is_sent_to_another_process_brings_its_tokens(tmp_path: Path) -> None:
    with many(tmp_path, shards=2) as made:
        sent = pickle.dumps(made.shards[1])
        arrived = pickle.loads(sent)  # noqa: S301  our own bytes
        assert_same_bytes(arrived, made.shards[1])
    assert arrived.tokens == 10


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(MoetraceError, match=r"cannot keep the tokenised corpus there .*; .*set TMPDIR"):
        many(tmp_path, shards=2000)


def test_long_texts_are_tokenised_in_smaller_batches(tmp_path: Path) -> None:
    sizes: list[int] = []

    def noted(texts: list[str]) -> list[list[int]]:
        sizes.append(len(texts))
        return [[1] for _ in texts]

    (tmp_path / "eng.txt").write_text(
        "x" * 400_000 + "\n" + ("y" * 700_000 + "\n") * 2 + "z\n" * 1100, encoding="utf-8"
    )
    made = make_plan(open_corpus(str(tmp_path)), noted, shard_tokens=10, window=100)
    assert made.texts == 1103
    assert sizes == [2, 1024, 77]

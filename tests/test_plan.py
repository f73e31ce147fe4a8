"""A corpus is cut into the same shards every time, and no token is lost or doubled by the cut."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import MoetraceError
from tracer.corpus import open_corpus
from tracer.plan import Plan, make_plan


def encode(texts: list[str]) -> list[list[int]]:
    return [[ord(character) for character in text] for text in texts]


def plan(folder: Path, texts: dict[str, dict[str, str]], **options: object) -> Plan:
    for lang, rows in texts.items():
        lines = [json.dumps({"id": key, "text": text}) for key, text in rows.items()]
        (folder / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return make_plan(open_corpus(str(folder)), encode, **{"shard_tokens": 10, "window": 100, **options})


@given(st.lists(st.text("abc", min_size=1, max_size=14), min_size=1, max_size=12), st.integers(1, 20))
@settings(max_examples=15, deadline=None)
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

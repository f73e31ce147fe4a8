"""A sample holds the same ids in every language, and always the same ones; repeated ids never pass."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.errors import MoetraceError
from moetrace.tracer.corpus.corpus import open_corpus
from moetrace.tracer.corpus.ids import IdDigests
from moetrace.tracer.plan.plan import make_plan

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.tracer.corpus.corpus import Corpus


def folder(tmp_path: Path, languages: dict[str, list[str]]) -> Corpus:
    for lang, ids in languages.items():
        lines = [json.dumps({"id": key, "text": f"{lang} {key}"}) for key in ids]
        (tmp_path / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_corpus(str(tmp_path))


def ids(corpus: Corpus) -> dict[str, list[str]]:
    return {lang: [text.id for text in corpus.read(lang)] for lang in corpus.languages}


def numbers(*spans: range) -> list[str]:
    return [str(number) for span in spans for number in span]


def test_a_sample_is_of_the_ids_that_all_languages_have_and_keeps_the_files_order(tmp_path: Path) -> None:
    corpus = folder(
        tmp_path, {"eng": numbers(range(100)), "swh": numbers(range(90, 20, -1)), "deu": numbers(range(80))}
    )
    made = ids(corpus.sample(25))
    assert set(made["eng"]) == set(made["swh"]) == set(made["deu"])
    assert set(made["eng"]) <= set(numbers(range(21, 80)))
    assert made["eng"] == sorted(made["eng"], key=int) == made["swh"][::-1]
    assert len(made["eng"]) == 25


def test_a_sample_depends_on_its_seed_and_on_nothing_else(tmp_path: Path) -> None:
    corpus = folder(tmp_path, {"eng": numbers(range(50)), "swh": numbers(range(49, -1, -1))})
    one = ids(corpus.only(["eng", "swh"]).sample(10, seed=3))
    assert ids(corpus.only(["swh", "eng"]).sample(10, seed=3)) == one
    assert ids(corpus.sample(10, seed=4)) != one
    assert set(ids(corpus.sample(20, seed=3))["eng"]) > set(one["eng"])


def test_every_id_is_drawn_as_often_as_any_other(tmp_path: Path) -> None:
    corpus = folder(tmp_path, {"eng": numbers(range(20))})
    drawn = np.zeros(20, dtype=int)
    for seed in range(40):
        drawn[[int(key) for key in ids(corpus.sample(5, seed=seed))["eng"]]] += 1
    # 40 draws with probability 1/4: mean 10, standard deviation 2.7
    assert drawn.sum() == 200
    assert drawn.min() >= 2
    assert drawn.max() <= 20


def test_more_than_the_languages_share_is_refused(tmp_path: Path) -> None:
    corpus = folder(tmp_path, {"eng": numbers(range(9)), "swh": numbers(range(4, 9))})
    assert len(ids(corpus.sample(5))["eng"]) == 5
    with pytest.raises(MoetraceError, match=r"--sample 6: the 2 languages of .* share 5 ids \(swh has the fewest"):
        corpus.sample(6)
    with pytest.raises(MoetraceError, match="choose one"):
        corpus.sample(2).first(1)


def test_what_was_chosen_of_a_corpus_stands_in_its_record_and_only_then(tmp_path: Path) -> None:
    corpus = folder(tmp_path, {"eng": numbers(range(9))})

    def record(corpus: Corpus) -> dict[str, object]:
        return make_plan(corpus, lambda texts: [[1] for _ in texts], shard_tokens=9, window=9).corpus_record()

    assert "selection" not in record(corpus)
    assert record(corpus.sample(3, seed=5))["selection"] == {"sample": 3, "sample_seed": 5}
    templated = open_corpus(str(tmp_path), text_template="{text}!", id_template="n{id}")
    assert record(templated)["selection"] == {"text_template": "{text}!", "id_template": "n{id}"}


@pytest.mark.parametrize(("at", "again"), [(1, 0), (1500, 3), (2999, 2998)])
def test_a_repeated_id_is_found_wherever_it_stands(tmp_path: Path, at: int, again: int) -> None:
    listed = numbers(range(3000))
    listed[at] = listed[again]
    with pytest.raises(MoetraceError, match=f"id '{again}' stands twice in eng"):
        ids(folder(tmp_path, {"eng": listed}))


def test_a_limit_does_not_hide_a_repeated_id(tmp_path: Path) -> None:
    corpus = folder(tmp_path, {"eng": ["a", "b", "a", "c"]})
    assert ids(corpus.first(2)) == {"eng": ["a", "b"]}
    with pytest.raises(MoetraceError, match="id 'a' stands twice"):
        ids(corpus.first(3))


def test_two_ids_that_only_share_a_digest_are_not_a_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IdDigests, "digest", lambda _, text_id: 7 if text_id in {"2", "5"} else int(text_id))
    assert ids(folder(tmp_path, {"eng": numbers(range(9))}))["eng"] == numbers(range(9))
    with pytest.raises(MoetraceError, match="id '8' stands twice"):
        ids(folder(tmp_path, {"eng": [*numbers(range(9)), "8"]}))

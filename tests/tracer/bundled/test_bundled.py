"""What moetrace ships to begin with: a small model, a parallel corpus, and the word that names them."""

from __future__ import annotations

from moetrace.tracer.bundled import CORPUS, MODEL, named_corpus, named_model
from moetrace.tracer.corpus.corpus import open_corpus


def test_the_bundled_model_is_small_and_complete() -> None:
    files = {path.name for path in MODEL.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "training.json"} <= files
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 12_000_000


def test_the_bundled_corpus_is_parallel() -> None:
    opened = open_corpus(str(CORPUS))
    corpus = {lang: [text.id for text in opened.read(lang)] for lang in opened.languages}
    assert len(corpus) == 12
    assert {tuple(ids) for ids in corpus.values()} == {tuple(f"everyday-{n:02d}" for n in range(1, 61))}


def test_the_word_bundled_names_them_and_any_other_name_stays() -> None:
    assert (named_model("bundled"), named_corpus("bundled")) == (str(MODEL), str(CORPUS))
    assert (named_model("Qwen/Qwen3-30B-A3B"), named_corpus("texts/")) == ("Qwen/Qwen3-30B-A3B", "texts/")

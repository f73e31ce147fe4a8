"""The section on similarity to the pivot language: it leads with what is the sentence's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.analytics.database.connection import connect
from moetrace.analytics.report.pivot import pivot
from moetrace.analytics.report.source import Source
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.analytics.report.section import Section
    from tests.support.stores import World


def section_of(path: Path, world: World) -> Section:
    store = write_world(path, world)
    return pivot(Source(connect(store), store.run("run"), tuple(store.languages("run"))), [])


def told_by(path: Path, profile_of: str) -> Section:
    """Return the section of a run whose texts are routed by their `text_id` alone, or by their `lang` alone."""
    world = make_world(6, texts=30)
    drawn = np.random.default_rng(0).dirichlet(np.ones(8), size=(100, 3)).astype(np.float32)
    profiles, made = iter(drawn), {}
    for lang, found in world.texts.items():
        for text in found:
            key = lang if profile_of == "lang" else text.text_id
            made[key] = made[key] if key in made else next(profiles)
    texts = {
        lang: [replace(text, profile=made[lang if profile_of == "lang" else text.text_id]) for text in found]
        for lang, found in world.texts.items()
    }
    return section_of(path, replace(world, texts=texts))


def test_it_leads_with_excess_and_says_what_else_than_meaning_that_is(tmp_path: Path) -> None:
    section = told_by(tmp_path, "text_id")
    assert [figure.name for figure in section.figures] == ["pivot_excess", "pivot_lines", "pivot_heat"]
    assert "excess" in str(section.figures[0].spec)
    assert "numbers, punctuation and placeholders that a translation copies" in section.reading
    frame = section.datasets["pivot"]
    means = {layer: np.mean(frame.filter(layer=layer)["excess"].to_numpy()) for layer in (1, 2, 5)}
    high, low = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    assert min(means.values()) > 0.1
    depths, ends, similarities, _ = section.findings
    assert f"is highest in layer {high} ({means[high]:.4f}, " in depths
    assert f"lowest in layer {low} ({means[low]:.4f}, " in depths
    assert ends.startswith("Over all layers, excess is ")
    assert "like eng_Latn" in similarities
    low_end, high_end = frame["excess_low"].to_numpy(), frame["excess_high"].to_numpy()
    assert np.all((low_end < frame["excess"].to_numpy()) & (frame["excess"].to_numpy() < high_end))


def test_similarity_that_is_the_languages_alone_is_said_to_be_that(tmp_path: Path) -> None:
    section = told_by(tmp_path, "lang")
    assert section.datasets["pivot"]["excess"].to_list() == pytest.approx([0] * 6, abs=1e-9)
    first, second, *_ = section.findings
    assert "Similarity measures script and language here, not the sentence." in first
    assert "like eng_Latn" in second


def test_one_text_alone_has_no_excess_and_the_rest_is_shown(tmp_path: Path) -> None:
    section = section_of(tmp_path, make_world(7, texts=1))
    assert set(section.datasets["pivot"]["excess"]) == {None}
    assert [figure.name for figure in section.figures] == ["pivot_lines", "pivot_heat"]
    assert len(section.findings) == 2


def test_texts_that_are_no_translations_of_each_other_are_not_compared(tmp_path: Path) -> None:
    record = make_record()
    section = section_of(tmp_path, make_world(8, replace(record, corpus={**record.corpus, "parallel": False})))
    assert section.missing is not None
    assert "text ids are not parallel" in section.missing
    assert section.figures == ()

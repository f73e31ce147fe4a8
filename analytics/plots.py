"""The report's charts one by one: for a paper, to change as an Altair chart, or as the numbers that they draw.

    from moetrace import plots
    plots.isolation("my-store").properties(title="Isolation").save("isolation.svg")

Each function takes a store (a place or a `Store`) and returns a chart that holds its data; `run` may be left out where
the store has one run. They raise what `write_report` raises, and MoetraceError where a run has nothing to draw.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from moetrace.analytics.database.connection import connect
from moetrace.analytics.metrics.scores import read_scores
from moetrace.analytics.plot_file import Plot
from moetrace.analytics.report.comparison.agreement import agreement
from moetrace.analytics.report.comparison.depth import curve, entropies, similarity
from moetrace.analytics.report.comparison.experts import experts
from moetrace.analytics.report.comparison.pair import pair_of
from moetrace.analytics.report.corpus import corpus as corpus_section
from moetrace.analytics.report.divergence import divergence as divergence_section
from moetrace.analytics.report.entropy import entropy as entropy_section
from moetrace.analytics.report.isolation import isolation as isolation_section
from moetrace.analytics.report.mask_input import fitting_mask
from moetrace.analytics.report.mask_map import mask_section
from moetrace.analytics.report.pairs import pairs as pairs_section
from moetrace.analytics.report.pivot import pivot as pivot_section
from moetrace.analytics.report.scores import scores as scores_section
from moetrace.analytics.report.source import Source
from moetrace.analytics.report.specificity import specificity as specificity_section
from moetrace.analytics.report.vocabulary import vocabulary as vocabulary_section
from moetrace.store.errors import MoetraceError, StoreError, UnknownNameError
from moetrace.store.mask import mask_targets
from moetrace.store.read.reader import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import altair as alt

    from moetrace.analytics.report.comparison.pair import Pair
    from moetrace.analytics.report.section import Section

    Mask = Mapping[str, Any]
    Scores = pl.DataFrame | str | Path
    Chart = alt.Chart | alt.LayerChart

__all__ = [
    "comparison",
    "corpus",
    "divergence",
    "entropy_heat",
    "entropy_lines",
    "isolation",
    "mask_coverage",
    "mask_grid",
    "pairs",
    "pivot_excess",
    "pivot_heat",
    "pivot_lines",
    "score_points",
    "scores",
    "specificity",
    "vocabulary",
    "vocabulary_r",
]


@dataclass(frozen=True)
class Asked:
    """What a plot is of beside the run: languages to colour, and the mask or the scores of the user."""

    targets: list[str]
    mask: Mask | None = None
    scores: Scores | None = None


def _of_mask(source: Source, asked: Asked) -> Section:
    if asked.mask is None:
        raise MoetraceError("this plot is of a mask: name one with --mask, or mask=")
    return mask_section(source, asked.mask)


def _of_scores(source: Source, asked: Asked) -> Section:
    if asked.scores is None:
        raise MoetraceError("this plot is of scores of languages: name their file with --scores, or scores=")
    given = asked.scores if isinstance(asked.scores, pl.DataFrame) else read_scores(asked.scores)
    return scores_section(source, given)


# A chart of the report that is offered: its figure's name, and what makes the section that it stands in.
# `moetrace plot --help` has a line for each.
SECTIONS: dict[str, Callable[[Source, Asked], Section]] = {
    "isolation": lambda source, _: isolation_section(source),
    "divergence": lambda source, _: divergence_section(source),
    **dict.fromkeys(
        ("pivot_lines", "pivot_heat", "pivot_excess"), lambda source, asked: pivot_section(source, asked.targets)
    ),
    **dict.fromkeys(("scores", "score_points"), _of_scores),
    "pairs": lambda source, _: pairs_section(source),
    "specificity": lambda source, asked: specificity_section(source, asked.targets),
    **dict.fromkeys(("entropy_lines", "entropy_heat"), lambda source, asked: entropy_section(source, asked.targets)),
    **dict.fromkeys(("vocabulary", "vocabulary_r"), lambda source, _: vocabulary_section(source)),
    "corpus": lambda source, _: corpus_section(source),
    **dict.fromkeys(("mask_grid", "mask_coverage"), _of_mask),
}
# The same of two runs, the second less the first.
COMPARISONS: dict[str, Callable[[Pair], Section]] = {
    **dict.fromkeys(("agreement", "agreement_heat"), agreement),
    **dict.fromkeys(("isolation", "isolation_difference"), lambda pair: curve(pair, "isolation")),
    **dict.fromkeys(("divergence", "divergence_difference"), lambda pair: curve(pair, "divergence")),
    **dict.fromkeys(("excess", "excess_difference", "excess_languages"), lambda pair: similarity(pair, "excess")),
    **dict.fromkeys(
        ("similarity", "similarity_difference", "similarity_languages"), lambda pair: similarity(pair, "similarity")
    ),
    **dict.fromkeys(("entropy", "entropy_difference", "entropy_languages"), entropies),
    "moved": experts,
}


def plot(
    name: str,
    place: str | Path | Store,
    *,
    run: str | None = None,
    lang: str | None = None,
    mask: Mask | str | Path | None = None,
    scores: Scores | None = None,
) -> Plot:
    """Return a chart of a run; `name` is one of SECTIONS.

    lang: the language that it is of, or that it colours, first; mask: a mask in the moetrace format, or its file, whose
    targets are coloured; scores: a table of lang and score, or its file
    """
    if name not in SECTIONS:
        more = f"; of two runs {', '.join(COMPARISONS)}" if name in COMPARISONS else ""
        raise MoetraceError(f"no plot is called {name}; there are {', '.join(SECTIONS)}{more}")
    with ExitStack() as opened:
        store, source = _source(opened, place, run)
        if lang is not None and lang not in source.languages:
            raise UnknownNameError.among("language", lang, source.languages, store.url)
        fitting = None if mask is None else fitting_mask(mask, source.record)
        targets = [*([lang] if lang else []), *(mask_targets(fitting) if fitting else [])]
        source = replace(source, first=tuple(targets))
        section = SECTIONS[name](source, Asked(targets, fitting, scores))
        return _plot_of(name, section, {"zones": source.zone_frame})


def plot_comparison(
    name: str, first: tuple[str | Path | Store, str | None], second: tuple[str | Path | Store, str | None]
) -> Plot:
    """Return a chart of two runs, each a store and the name of its run; `name` is one of COMPARISONS."""
    if name not in COMPARISONS:
        raise MoetraceError(f"no plot of two runs is called {name}; there are {', '.join(COMPARISONS)}")
    with ExitStack() as opened:
        pair = pair_of(*(_source(opened, place, run) for place, run in (first, second)))
        zones = {"zones": pair.first.zone_frame} if pair.same_layers else {}
        return _plot_of(name, COMPARISONS[name](pair), zones)


def _source(opened: ExitStack, place: str | Path | Store, run: str | None) -> tuple[Store, Source]:
    store = place if isinstance(place, Store) else Store(place)
    record = store.run(run)
    languages = tuple(store.languages(record.run))
    if not languages:
        raise StoreError(f"{store.url}: run '{record.run}' has no finished shard yet, so there is nothing to plot")
    return store, Source(opened.enter_context(connect(store)), record, languages)


def _plot_of(name: str, section: Section, more: Mapping[str, pl.DataFrame]) -> Plot:
    """Return the figure of a section with its data."""
    figure = next((item for item in section.figures if item.name == name), None)
    if figure is None:
        raise MoetraceError(f"{name}: {section.missing or 'the run has nothing of it to draw'}")
    frames = {each: {**more, **section.datasets}[each] for each in figure.datasets}
    data = {each: frame.fill_nan(None).to_dicts() for each, frame in frames.items()}
    spec = {**figure.spec, "datasets": {**figure.spec.get("datasets", {}), **data}}
    return Plot(name, spec, frames[figure.datasets[0]])


def isolation(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return how far apart languages are routed, layer by layer: mean, middle half and range of the pairs."""
    return plot("isolation", store, run=run).chart()


def divergence(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return how differently languages spread over all experts, layer by layer, over its noise floor."""
    return plot("divergence", store, run=run).chart()


def comparison(
    name: str, first: tuple[str | Path | Store, str | None], second: tuple[str | Path | Store, str | None]
) -> Chart:
    """Return a chart of two runs, each a store and the name of its run; `moetrace plot --help` has the names."""
    return plot_comparison(name, first, second).chart()


def scores(store: str | Path | Store, scores: Scores, run: str | None = None) -> Chart:
    """Return the correlation of scores of languages with their similarity to the pivot, by layer."""
    return plot("scores", store, run=run, scores=scores).chart()


def score_points(store: str | Path | Store, scores: Scores, run: str | None = None) -> Chart:
    """Return scores of languages against their mean similarity to the pivot."""
    return plot("score_points", store, run=run, scores=scores).chart()


def vocabulary(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return divergence by layer of all tokens, and where both languages have the same tokens as often."""
    return plot("vocabulary", store, run=run).chart()


def vocabulary_r(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return the correlation of shared vocabulary and divergence over language pairs, by layer."""
    return plot("vocabulary_r", store, run=run).chart()


def corpus(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return how many tokens each language takes for one of the pivot language."""
    return plot("corpus", store, run=run).chart()


def pivot_lines(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return similarity to the pivot language by layer, a line a language; `lang` is coloured."""
    return plot("pivot_lines", store, run=run, lang=lang).chart()


def pivot_heat(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return similarity to the pivot language as a map of language by layer."""
    return plot("pivot_heat", store, run=run).chart()


def pivot_excess(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return excess similarity by layer: of a text and its own translation over mispaired ones; `lang` is coloured."""
    return plot("pivot_excess", store, run=run, lang=lang).chart()


def pairs(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return the square map of how alike every two languages are routed."""
    return plot("pairs", store, run=run).chart()


def specificity(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return the map of layer by expert of specificity for `lang`, or for the most specific language."""
    return plot("specificity", store, run=run, lang=lang).chart()


def entropy_lines(store: str | Path | Store, lang: str | None = None, run: str | None = None) -> Chart:
    """Return normalised routing entropy by layer, a line a language; `lang` is coloured."""
    return plot("entropy_lines", store, run=run, lang=lang).chart()


def entropy_heat(store: str | Path | Store, run: str | None = None) -> Chart:
    """Return normalised routing entropy as a map of language by layer."""
    return plot("entropy_heat", store, run=run).chart()


def mask_grid(store: str | Path | Store, mask: Mask | str | Path, run: str | None = None) -> Chart:
    """Return a mask's experts by role, over how much they are used."""
    return plot("mask_grid", store, run=run, mask=mask).chart()


def mask_coverage(store: str | Path | Store, mask: Mask | str | Path, run: str | None = None) -> Chart:
    """Return the part of each language's routing decisions that a mask's experts take."""
    return plot("mask_coverage", store, run=run, mask=mask).chart()

"""The page of two runs: its head, its sections in reading order, and how it is written."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from moetrace.analytics.database.connection import connect
from moetrace.analytics.report.comparison.agreement import agreement
from moetrace.analytics.report.comparison.depth import MEASURES, curve, entropies, similarity
from moetrace.analytics.report.comparison.experts import experts
from moetrace.analytics.report.comparison.pair import Pair, pair_of
from moetrace.analytics.report.header import Header, number
from moetrace.analytics.report.made import differences, made, record_facts
from moetrace.analytics.report.page import check_replicates, check_writable, page_facts, render
from moetrace.analytics.report.section import Table
from moetrace.analytics.report.source import Source
from moetrace.analytics.uncertainty.curves import REPLICATES
from moetrace.store.output import write_text
from moetrace.store.read.reader import Store

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.analytics.report.section import Section


def write_comparison(
    first: tuple[str | Path, str | None],
    second: tuple[str | Path, str | None],
    output_html: str | Path,
    *,
    replicates: int = REPLICATES,
) -> Path:
    """Write the report of two runs side by side as one self-contained HTML file and return its path.

    first, second: a store and the name of a run of it (None where it has one); differences are second less first

    What is compared is what both have: languages by their codes, texts by their ids, experts where layers and experts
    are as many in both, and depth from 0 to 1 where they are not. Raises as `write_report`, and StoreError for runs
    without a language in common, or for a run and itself.
    """
    check_replicates(replicates)
    output = check_writable(output_html)
    with ExitStack() as opened:
        sources = []
        for place, run in (first, second):
            store = Store(place)
            record = store.run(run)
            languages = tuple(store.languages(record.run))
            connection = opened.enter_context(connect(store))
            sources.append((store, Source(connection, record, languages, replicates)))
        pair = pair_of(*sources)
        zones = {"zones": pair.first.zone_frame} if pair.same_layers else {}
        html = render(_header(pair), sections(pair), pair.languages, zones)
    write_text(output, html)
    return output


def sections(pair: Pair) -> tuple[Section, ...]:
    """Return the sections in reading order."""
    found = (
        agreement(pair),
        *(curve(pair, name) for name in MEASURES),
        similarity(pair, "excess"),
        similarity(pair, "similarity"),
        entropies(pair),
        experts(pair),
    )
    return (*found, made(dict(zip(pair.names, pair.sources, strict=True)), found, page_facts()))


def _header(pair: Pair) -> Header:
    models = [str(source.record.model.get("id", "unknown model")) for source in pair.sources]
    model = models[0] if models[0] == models[1] else f"{models[0]} and {models[1]}"
    facts = (
        ("Languages in both", f"{len(set(pair.first.languages) & set(pair.second.languages)):,}"),
        ("Layers", "the same" if pair.same_layers else "compared by depth"),
        ("Experts", "the same numbers" if pair.same_experts else "not comparable one by one"),
        ("Texts", "the same" if pair.paired else "not the same, or unknown"),
        ("The records differ in", differences([record_facts(source.record) for source in pair.sources])),
    )
    languages = sorted(set(pair.first.languages) ^ set(pair.second.languages))
    warnings = (f"Not in both runs, and left out: {', '.join(languages)}.",) if languages else ()
    return Header(
        model,
        "How two runs differ, the second less the first:",
        f"{pair.names[0]} and {pair.names[1]}",
        f"{pair.first.record.sha256()}, {pair.second.record.sha256()}",
        facts,
        _languages(pair),
        warnings,
    )


def _languages(pair: Pair) -> Table:
    """Return what of each language the runs have."""
    found = []
    for source in pair.sources:
        texts_known, tokens_known = "sequences" in source.record.tables, not source.record.nominal_tokens
        rows = source.frame(f"select lang, sequences, tokens from languages where {source.this_run}").iter_rows()
        found.append(
            {
                lang: (number(texts, known=texts_known), number(tokens, known=tokens_known))
                for lang, texts, tokens in rows
            }
        )
    languages = sorted({*found[0], *found[1]})
    return Table(
        "Texts and tokens of each language",
        ("language", *(f"{what}, {name}" for name in pair.names for what in ("texts", "tokens"))),
        tuple((lang, *(cell for each in found for cell in each.get(lang, ("none", "none")))) for lang in languages),
    )

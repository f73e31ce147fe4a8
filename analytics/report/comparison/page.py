"""The page of two runs: its head, its sections in reading order, and how it is written."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from moetrace.analytics.database.connection import connect
from moetrace.analytics.report.comparison.agreement import agreement
from moetrace.analytics.report.comparison.depth import MEASURES, curve, entropies, similarity
from moetrace.analytics.report.comparison.experts import experts
from moetrace.analytics.report.comparison.pair import Pair, pair_of
from moetrace.analytics.report.header import Header
from moetrace.analytics.report.page import check_replicates, check_writable, render
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
    return (
        agreement(pair),
        *(curve(pair, name) for name in MEASURES),
        similarity(pair, "excess"),
        similarity(pair, "similarity"),
        entropies(pair),
        experts(pair),
    )


def _header(pair: Pair) -> Header:
    models = [str(source.record.model.get("id", "unknown model")) for source in pair.sources]
    model = models[0] if models[0] == models[1] else f"{models[0]} and {models[1]}"
    facts = (
        ("Languages in both", f"{len(set(pair.first.languages) & set(pair.second.languages)):,}"),
        ("Layers", "the same" if pair.same_layers else "compared by depth"),
        ("Experts", "the same numbers" if pair.same_experts else "not comparable one by one"),
        ("Texts", "the same" if pair.paired else "not the same, or unknown"),
    )
    rows = [
        ("model", *models),
        ("revision", *(str(source.record.model.get("revision") or "unknown") for source in pair.sources)),
        (
            "config digest",
            *(str(source.record.model.get("config_sha256") or "unknown")[:12] for source in pair.sources),
        ),
        ("data type", *(str(source.record.model.get("dtype") or "unknown") for source in pair.sources)),
        ("MoE layers", *(f"{len(source.record.moe_layers)}" for source in pair.sources)),
        ("experts, top-k", *(f"{source.record.num_experts}, {source.record.top_k}" for source in pair.sources)),
        ("languages", *(f"{len(source.languages):,}" for source in pair.sources)),
        ("run digest", *(source.record.sha256()[:12] for source in pair.sources)),
    ]
    versions = [source.record.settings.get("versions") or {} for source in pair.sources]
    rows += [
        (name, *(str(each.get(name, "unknown")) for each in versions)) for name in sorted({*versions[0], *versions[1]})
    ]
    languages = sorted(set(pair.first.languages) ^ set(pair.second.languages))
    warnings = (f"Not in both runs, and left out: {', '.join(languages)}.",) if languages else ()
    table = Table("What is compared", ("", *pair.names), tuple(rows))
    return Header(
        model,
        "How two runs differ, the second less the first:",
        f"{pair.names[0]} and {pair.names[1]}",
        f"{pair.first.record.sha256()}, {pair.second.record.sha256()}",
        facts,
        table,
        warnings,
    )

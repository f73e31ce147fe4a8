"""Section: how far each language's use of the experts moved from one run to the other, and which experts moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.database.quoting import literal
from moetrace.analytics.report.layer_charts import Value, language_heat
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, Table, figure

if TYPE_CHECKING:
    from moetrace.analytics.report.comparison.pair import Pair

MOVED = Value("jsd", "JSD of both runs' shares, nats", ".4f")
TOP = 20
QUERY = """select lang, layer, expert, share
from activation
where {run} and lang in ({languages})"""


def experts(pair: Pair) -> Section:
    """Return the divergence of each language from itself in the other run, and the experts that moved most."""
    listed_languages = ", ".join(literal(lang) for lang in pair.languages)
    queries = {
        name: QUERY.format(run=source.this_run, languages=listed_languages)
        for name, source in zip(pair.names, pair.sources, strict=True)
    }
    section = Section(
        name="moved",
        title="What moved",
        reading=(
            "Each cell compares a language with itself in the other run: 0 means that its tokens use the experts of "
            "the layer alike in both. Two samples of one language differ, too: a layer is said to have moved where "
            "the mean over languages is above that."
        ),
        formula="JSD of the activation shares p of a language in both runs, nats",
        queries={"moved": "\n\n".join(f"-- {name}\n{query};" for name, query in queries.items())},
    )
    if not pair.same_experts:
        return section.without_data(
            "The runs have other layers, experts or experts a token, so that no expert is the same in both."
        )
    if reason := next((source.reason_without_counts for source in pair.sources if source.reason_without_counts), None):
        return section.without_data(reason)
    first, second = (source.frame(query) for source, query in zip(pair.sources, queries.values(), strict=True))
    both = first.join(second, on=["lang", "layer", "expert"], suffix="_other").with_columns(
        moved=pl.col("share_other") - pl.col("share")
    )
    p, q = (pl.col(name) / 2 + 1e-300 for name in ("share", "share_other"))
    frame = (
        both.with_columns(
            part=p * (p * 2).log() + q * (q * 2).log() - (p + q) * (p + q).log(),
        )
        .group_by("lang", "layer")
        .agg(jsd=pl.col("part").sum().clip(0))
        .sort("lang", "layer")
    )
    ranked = frame.group_by("lang").agg(pl.col("jsd").mean()).sort("jsd", "lang", descending=[True, False])
    return section.with_data(
        {"moved": frame},
        findings=_findings(pair, frame, ranked),
        tables=(_table(pair, both),),
        figures=(
            figure(
                "moved",
                f"How far each language's routing moved from {pair.names[0]} to {pair.names[1]}, from most to least",
                language_heat("moved", MOVED, ranked["lang"].to_list()),
                ("moved",),
                renderer="canvas",
            ),
        ),
    )


def _findings(pair: Pair, frame: pl.DataFrame, ranked: pl.DataFrame) -> tuple[str, ...]:
    depth = frame.group_by("layer").agg(pl.col("jsd").mean()).sort("layer")
    most = depth.sort("jsd", "layer", descending=[True, False]).row(0, named=True)
    found = [f"Languages moved most in layer {most['layer']} (JSD {most['jsd']:.4f}, the mean over languages)."]
    if pair.counts:
        noise = np.maximum(*(each.jsd_floor.interval()[1] for each in pair.counts))
        moved = depth.filter(pl.Series(depth["jsd"].to_numpy() > noise))["layer"].to_list()
        if not moved:
            return ("In no layer have languages moved by more than two samples of one language differ.",)
        layers = listed([str(layer) for layer in moved])
        found = [
            (
                f"In {len(moved)} of {depth.height} layers languages moved by more than two samples of one language "
                f"differ: {layers}; most in layer {most['layer']} (JSD {most['jsd']:.4f})."
            )
        ]
    row = ranked.row(0, named=True)
    found.append(f"The mean over layers is largest for {row['lang']} ({row['jsd']:.4f}).")
    return tuple(found)


def _table(pair: Pair, both: pl.DataFrame) -> Table:
    top = both.sort(pl.col("moved").abs(), "lang", "layer", "expert", descending=[True, False, False, False]).head(TOP)
    rows = tuple(
        (
            row["lang"],
            str(row["layer"]),
            str(row["expert"]),
            f"{row['share']:.2%}",
            f"{row['share_other']:.2%}",
            f"{row['moved']:+.2%}",
        )
        for row in top.to_dicts()
    )
    columns = ("language", "layer", "expert", pair.names[0], pair.names[1], "difference")
    return Table("Experts whose share of a language's routing decisions moved most", columns, rows)

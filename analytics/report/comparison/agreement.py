"""Section: whether both runs send the same tokens to the same experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from moetrace.analytics.metrics.agreement import agreement_by_text, decisions
from moetrace.analytics.report.comparison.charts import both_curves
from moetrace.analytics.report.findings import by_layer
from moetrace.analytics.report.layer_charts import Value, language_heat
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.uncertainty.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moetrace.analytics.report.comparison.pair import Pair

MOST_AT_ONCE = 2_000_000  # decisions of a layer that are held, of one language at least
MOST_DECISIONS = 60_000_000  # of a run that are compared
AGREEMENT = Value("equal_sets", "share of tokens with the same experts, 0 to 1")


def agreement(pair: Pair) -> Section:
    """Return the share of tokens that both runs send to the same set of experts, and how much their sets share."""
    section = Section(
        name="agreement",
        title="The same tokens",
        reading=(
            "Each token of a text that both runs have, at the same position and with the same id, is compared: equal "
            "sets is the share of tokens whose experts are the same in both, overlap the mean part of the experts "
            "that they share, weight error the mean difference of the gate weights of shared experts. Two engines, "
            "precisions or versions of one model should agree nearly everywhere; of two models, equal numbers mean "
            "nothing."
        ),
        formula="the view route_agreement: joined on text id and position",
        queries={
            "agreement": (
                "-- In a store that has both runs.\nselect lang, layer, tokens, equal_sets, overlap, weight_error, "
                "largest_weight_error\nfrom route_agreement(run_a := 'A', run_b := 'B')\norder by lang, layer"
            )
        },
    )
    tokens = dict(pair.first.frame(f"select lang, tokens from languages where {pair.first.this_run}").iter_rows())
    tokens = {lang: tokens[lang] for lang in pair.languages}
    if missing := _missing(pair, sum(tokens.values())):
        return section.without_data(missing)
    layers, top_k = pair.first.record.moe_layers, pair.first.record.top_k
    rows = []
    for languages in _some_languages(tokens, top_k):
        for layer in layers:
            first, second = (
                decisions(source.connection, source.record.run, languages, layer) for source in pair.sources
            )
            rows.append(agreement_by_text(first, second, top_k).with_columns(layer=pl.lit(layer)))
    by_text = pl.concat(rows)
    if not by_text["tokens"].sum():
        return section.without_data(
            "The runs have no token in common: no text id, or no token id at the same position."
        )
    return _drawn(pair, section, by_text)


def _drawn(pair: Pair, section: Section, by_text: pl.DataFrame) -> Section:
    top_k, layers = pair.first.record.top_k, pair.first.record.moe_layers
    frame = _quotients(by_text.group_by("lang", "layer"), top_k).sort("lang", "layer")
    means = _quotients(by_text.group_by("layer"), top_k).sort("layer")
    replicates = pair.first.replicates
    curves = {
        name: _curve(by_text, column, factor, replicates) if replicates else None
        for name, column, factor in (("equal sets", "equal_sets", 1), ("overlap", "shared", top_k))
    }
    values = {"equal sets": means["equal_sets"].to_numpy(), "overlap": means["overlap"].to_numpy()}
    rows = []
    for name, curve in curves.items():
        low, high = curve.interval() if curve else (np.full(len(layers), np.nan),) * 2
        rows.append(
            pl.DataFrame(
                {
                    "run": [name] * len(layers),
                    "depth": [float(layer) for layer in layers],
                    "layer": layers,
                    "value": values[name],
                    "low": low,
                    "high": np.minimum(high, 1),
                }
            ).with_columns(pl.col("low", "high").fill_nan(None))
        )
    ranked = (
        frame.group_by("lang").agg(pl.col("equal_sets").mean()).sort("equal_sets", "lang", descending=[True, False])
    )
    return section.with_data(
        {"agreement": frame, "agreement_curves": pl.concat(rows)},
        findings=_findings(pair, frame, means, curves["equal sets"]),
        figures=(
            figure(
                "agreement",
                "Tokens that both runs route alike, by layer",
                both_curves(pair, "agreement_curves", "share, 0 to 1", names=("equal sets", "overlap")),
                ("agreement_curves", "zones"),
            ),
            figure(
                "agreement_heat",
                "Share of tokens with the same set of experts, by language and layer",
                language_heat("agreement", AGREEMENT, ranked["lang"].to_list()),
                ("agreement",),
                renderer="canvas",
            ),
        ),
    )


def _some_languages(tokens: Mapping[str, int], top_k: int) -> Iterator[list[str]]:
    """Yield languages some at a time, of so many tokens that a layer of them is held easily."""
    some: list[str] = []
    for lang in tokens:
        if some and sum(tokens[each] for each in (*some, lang)) * top_k > MOST_AT_ONCE:
            yield some
            some = []
        some.append(lang)
    yield some


def _missing(pair: Pair, tokens: int) -> str | None:
    for source in pair.sources:
        if lacks := [table for table in ("sequences", "tokens", "routes") if table not in source.record.tables]:
            return f"Run {source.record.run} has no {listed(lacks)}, which this measure needs."
    if not pair.same_experts:
        return "The runs have other layers, experts or experts a token: there is no expert that is the same in both."
    count = tokens * len(pair.first.record.moe_layers) * pair.first.record.top_k
    if count > MOST_DECISIONS:
        return (
            f"The languages have {count:,} routing decisions, all of which this measure reads; a report reads up to "
            f"{MOST_DECISIONS:,}. The view route_agreement has it for fewer languages or layers."
        )
    return None


def _quotients(groups: pl.dataframe.group_by.GroupBy, top_k: int) -> pl.DataFrame:
    tokens = pl.col("tokens").sum()
    return groups.agg(
        tokens=tokens,
        other_tokens=pl.col("other_tokens").sum(),
        equal_sets=pl.col("equal_sets").sum() / tokens,
        overlap=pl.col("shared").sum() / (tokens * top_k),
        weight_error=pl.col("weight_errors").sum() / pl.col("shared").sum(),
        largest_weight_error=pl.col("largest_weight_error").max(),
    ).with_columns(pl.col("equal_sets", "overlap", "weight_error").fill_nan(None))


def _curve(by_text: pl.DataFrame, column: str, factor: int, replicates: int) -> Curve:
    """Return the quotient of sums over texts by layer, of all languages together, with draws of text ids."""
    summed = by_text.group_by("layer", "text_id").agg(pl.col(column).sum(), pl.col("tokens").sum())
    wide = [summed.pivot("layer", index="text_id", values=name).sort("text_id") for name in (column, "tokens")]
    layers = sorted(summed["layer"].unique())
    above, below = (frame.select(str(layer) for layer in layers).fill_null(0).to_numpy() for frame in wide)
    count = len(above)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=replicates)
    with np.errstate(invalid="ignore"):
        found = (weights @ above) / (weights @ below) / factor
    return Curve(above.sum(axis=0) / below.sum(axis=0) / factor, found, "percentile")


def _findings(pair: Pair, frame: pl.DataFrame, means: pl.DataFrame, curve: Curve | None) -> tuple[str, ...]:
    tokens, others = int(frame["tokens"].sum()), int(frame["other_tokens"].sum())
    layers = len(pair.first.record.moe_layers)
    series = by_layer(means["layer"].to_list(), means["equal_sets"].to_numpy(), curve, ".4f")
    overall = float((frame["equal_sets"] * frame["tokens"]).sum() / tokens)
    shared = (means["overlap"] * means["tokens"]).to_numpy()
    error = float(np.average(np.nan_to_num(means["weight_error"].to_numpy()), weights=shared)) if shared.any() else 0.0
    largest = float(np.nan_to_num(means["largest_weight_error"].to_numpy()).max())
    found = [
        (
            f"{overall:.2%} of {tokens // layers:,} tokens go to the same experts, the mean over layers; gate weights "
            f"of shared experts differ by {error:.2e} on average, by {largest:.2e} at most."
        ),
        series.ends(
            "Most tokens agree in", "fewest in", "Agreement is the same in every layer, as far as these texts can tell"
        ),
    ]
    if others:
        found.append(
            f"{others // layers:,} tokens have another id in the second run at the same position: not compared."
        )
    return tuple(found)

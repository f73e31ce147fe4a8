"""Each claim: what is measured, and what comes out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from moetrace.analytics.metrics import score_correlation
from moetrace.analytics.uncertainty.null_model import null_model
from tests.experiments.claims.correlation import Correlation, indicators, spearman
from tests.experiments.claims.evidence import LEVEL, contrast, evidence, intervals, of_correlation, together
from tests.experiments.claims.measures import (
    DEEP,
    MIDDLE,
    SHALLOW,
    by_language,
    mean_by_layer,
    over_languages,
    pair_matrix,
    specialization_by_layer,
    zone,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

    from tests.experiments.claims.evidence import Contrast
    from tests.experiments.claims.measures import Array

RISE, DEPTH, SSFT = "RISE, 2604.03592", "2510.04694", "2605.29714"
HIGH = 1000  # training texts of a high-resource language


@dataclass(frozen=True)
class Traced:
    """A run of a store, with what the training of the bundled model had of each language."""

    connection: duckdb.DuckDBPyConnection
    run: str
    corpus: str
    training: Mapping[str, Mapping[str, int]]

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return a query's rows for the run; `{run}` stands for its condition."""
        return self.connection.sql(query.replace("{run}", f"run = '{self.run}'")).pl().to_dicts()

    @cached_property
    def controlled(self) -> tuple[list[str], Array]:
        """The languages, and the vocabulary-controlled divergence of each pair, [layers, L, L]."""
        columns = "layer, lang_a, lang_b, jsd_controlled"
        rows = self.rows(f"select {columns} from divergence_vocabulary_controlled where {{run}}")
        return pair_matrix(rows, "jsd_controlled")

    def tokens(self, languages: list[str]) -> list[float]:
        """Return how many tokens of each language the model was trained to predict."""
        return [float(self.training[lang]["training_tokens"]) for lang in languages]


def scripts(languages: list[str]) -> list[list[float]]:
    """Return covariates for the script of each language."""
    return indicators([lang.rpartition("_")[2] for lang in languages])


def between(name: str, values: Array, replicates: Array, above: Sequence[int], below: Sequence[int]) -> Contrast:
    """Return the contrast of two zones of layers; values [layers], replicates [R, layers]."""
    value, drawn = (zone(one, above) - zone(one, below) for one in (values, replicates))
    return contrast(name, value, drawn)


def isolation(traced: Traced) -> dict[str, Any]:
    """RISE: languages with little training data use experts of their own."""
    rows = traced.rows("select layer, lang_a, lang_b, isolation from jaccard where {run}")
    languages, found = pair_matrix(rows, "isolation")
    _, controlled = traced.controlled
    high = [at for at, lang in enumerate(languages) if traced.training[lang]["training_texts"] >= HIGH]
    if not high:
        raise ValueError(f"{traced.corpus}: no language with {HIGH} training texts")
    tokens = traced.tokens(languages)
    mean, of_ids = (np.nanmean(each[:, :, high], axis=(0, 2)) for each in (found, controlled))
    plain = spearman(mean, tokens)
    partial = spearman(mean, tokens, scripts(languages))
    beside = spearman(of_ids, tokens, scripts(languages))
    return evidence(
        "Low-resource languages are routed to other experts than high-resource ones: the less training data, the more "
        "isolated.",
        RISE,
        traced.corpus,
        together([of_correlation(partial, -1), of_correlation(beside, -1)]),
        [
            (
                f"rho of isolation from high-resource languages and training tokens {plain.rho:+.2f} "
                f"(p {plain.p:.2g}), beside script {partial.rho:+.2f} (p {partial.p:.2g})"
            ),
            (
                f"of vocabulary-controlled divergence and training tokens, beside script {beside.rho:+.2f} "
                f"(p {beside.p:.2g})"
            ),
        ],
        languages=languages,
        tokens=tokens,
        isolation=mean,
        controlled=of_ids,
        isolation_by_layer=np.nanmean(found[:, :, high], axis=2).T,
        plain=plain,
        partial=partial,
        controlled_partial=beside,
    )


def convergence(traced: Traced) -> dict[str, Any]:
    """RISE, 2510.04694: languages diverge early, converge in the middle, diverge late."""
    values, replicates = mean_by_layer(traced.connection, "divergence", traced.run)
    controlled, of_languages = over_languages(traced.controlled[1])
    contrasts = [
        between(f"{name}, {end} less middle", mean, sample, layers, MIDDLE)
        for name, mean, sample in (("plain", values, replicates), ("controlled", controlled, of_languages))
        for end, layers in (("early", SHALLOW), ("late", DEEP))
    ]
    nulls = null_model(traced.connection, "divergence", run=traced.run, permutations=99)
    noise = nulls.group_by("layer").agg(pl.col("null_mean").mean()).sort("layer")
    return evidence(
        "Languages are routed apart in early layers, together in the middle and apart again in late layers.",
        f"{RISE}; {DEPTH}",
        traced.corpus,
        together([one.verdict for one in contrasts]),
        [str(one) for one in contrasts],
        divergence=values,
        interval=intervals(values, replicates),
        controlled=controlled,
        controlled_interval=intervals(controlled, of_languages),
        null_mean=noise["null_mean"].to_list(),
        contrasts=contrasts,
        zones=[row["zone"] for row in traced.rows("select zone from zones_auto where {run} order by layer")],
    )


def sharing(traced: Traced) -> dict[str, Any]:
    """2510.04694: the middle layers are where a text and its translation are routed alike."""
    values, replicates = mean_by_layer(traced.connection, "pivot_excess", traced.run)
    contrasts = [
        between(f"middle less {end}", values, replicates, MIDDLE, layers)
        for end, layers in (("early", SHALLOW), ("late", DEEP))
    ]
    return evidence(
        "Early and late layers are specific to the language, middle layers shared: there a text is routed like its "
        "English translation.",
        DEPTH,
        traced.corpus,
        together([one.verdict for one in contrasts]),
        [f"excess similarity, {one}" for one in contrasts],
        excess=values,
        interval=intervals(values, replicates),
        contrasts=contrasts,
    )


def performance(traced: Traced, reading: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """2510.04694: a language does better the more it is routed like English."""
    rows = traced.rows("select lang, layer, similarity, excess from pivot_similarity where {run}")
    measures = {name: by_language(rows, name) for name in ("similarity", "excess")}
    languages = [lang for lang in measures["similarity"] if lang in reading]
    tokens = traced.tokens(languages)
    scores = {
        "performance": [-reading[lang]["bits_per_byte"] for lang in languages],
        "gain": [reading[lang]["gain"] for lang in languages],
    }
    said, numbers = [], {}
    for measure, by_lang in measures.items():
        mean = [float(np.mean(by_lang[lang])) for lang in languages]
        for score, values in scores.items():
            plain = spearman(mean, values)
            partial = spearman(mean, values, [*scripts(languages), tokens])
            numbers[f"{measure}_{score}"] = {"plain": plain, "partial": partial}
            said.append(
                f"rho of {measure} and {score} {plain.rho:+.2f} (p {plain.p:.2g}), beside script and training tokens "
                f"{partial.rho:+.2f} (p {partial.p:.2g})"
            )
    frame = pl.DataFrame({"lang": languages, "score": scores["performance"]})
    by_layer = score_correlation(traced.connection, frame).filter(pl.col("run") == traced.run).sort("layer")
    return evidence(
        "A language does better the more it is routed like English.",
        DEPTH,
        traced.corpus,
        of_correlation(numbers["similarity_performance"]["partial"], +1),
        said,
        languages=languages,
        tokens=tokens,
        by_layer=by_layer.select(
            "layer", "pearson", "pearson_p", "spearman", "spearman_p", "spearman_p_layers"
        ).to_dicts(),
        **{name: [by_lang[lang] for lang in languages] for name, by_lang in measures.items()},
        **scores,
        **numbers,
    )


def vocabulary(traced: Traced) -> dict[str, Any]:
    """2605.29714: languages that share vocabulary share experts."""
    rows = traced.rows("select * from divergence_vs_vocabulary where {run} order by layer")
    found = [Correlation(row["pairs"], row["r_token"], row["p_token"]) for row in rows]
    significant = sum(one.p < LEVEL for one in found)
    strongest = min(rows, key=lambda row: row["r_token"])
    return evidence(
        "The more vocabulary two languages share, the less they are routed apart.",
        SSFT,
        traced.corpus,
        together([of_correlation(one, -1) for one in found]),
        [
            (
                f"r of divergence and shared tokens is {min(row['r_token'] for row in rows):+.2f} to "
                f"{max(row['r_token'] for row in rows):+.2f}, strongest in layer {strongest['layer']}; "
                f"Mantel's p below {LEVEL:g} in {significant} of {len(rows)} layers"
            ),
        ],
        by_layer=[{name: row[name] for name in ("layer", "r_type", "p_type", "r_token", "p_token")} for row in rows],
    )


def specialization(traced: Traced) -> dict[str, Any]:
    """2605.29714: experts specialise in languages in the last layers."""
    values, replicates = specialization_by_layer(traced.connection, traced.run)
    contrasts = [
        between(f"last two layers less {name}", values, replicates, DEEP, layers)
        for name, layers in (("the middle", MIDDLE), ("the first two", SHALLOW))
    ]
    weighted = traced.rows(
        "select layer, specialization, balanced from language_specialization where {run} order by layer"
    )
    return evidence(
        "Experts specialise in languages most in the last layers.",
        SSFT,
        traced.corpus,
        together([one.verdict for one in contrasts]),
        [f"balanced, {one}" for one in contrasts],
        balanced=values,
        interval=intervals(values, replicates),
        weighted=[row["specialization"] for row in weighted],
        view=[row["balanced"] for row in weighted],
        contrasts=contrasts,
    )


def tables(results: dict[str, Any]) -> str:
    """Return every claim as a row of a Markdown table, from the raw results alone."""
    lines = ["| claim | source | texts | measured | verdict |", "|---|---|---|---|---|"]
    for one in results["claims"]:
        cells = (one["claim"], one["source"], one["corpus"], "; ".join(one["measured"]), f"**{one['verdict']}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(results: dict[str, Any]) -> str:
    """Return the raw results as the text of their file."""
    return json.dumps(results, ensure_ascii=False, separators=(",", ":")) + "\n"

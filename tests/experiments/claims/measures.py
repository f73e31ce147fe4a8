"""What the claims are about, measured by the product's own views and functions, with replicates over texts."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.analytics.uncertainty.bootstrap import drawn
from moetrace.analytics.uncertainty.samples import CountSamples, find_samples
from moetrace.analytics.uncertainty.statistics import activation_shares, entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import duckdb
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

REPLICATES = 300
SHALLOW, MIDDLE, DEEP = (0, 1), (2, 3, 4, 5), (6, 7)


def mean_by_layer(
    connection: duckdb.DuckDBPyConnection, metric: str, run: str, languages: Sequence[str] | None = None, seed: int = 0
) -> tuple[Array, Array]:
    """Return a metric's mean over its keys, [layers], and replicates of it, [R, layers], over text ids drawn anew."""
    return _by_layer(connection, metric, run, languages, seed, lambda samples: samples)


def specialization_by_layer(connection: duckdb.DuckDBPyConnection, run: str, seed: int = 0) -> tuple[Array, Array]:
    """Return (H(L) - H(L|E)) / H(L) where languages weigh alike, [layers], and replicates of it, [R, layers]."""

    def balanced(samples: Any) -> CountSamples:
        return CountSamples(samples.ids, samples.counts, _specialization)

    return _by_layer(connection, "specificity", run, None, seed, balanced)


def _specialization(counts: dict[str, Array]) -> dict[tuple[Any, ...], Array]:
    shares = np.stack([activation_shares(each) for each in counts.values()], axis=-1)  # [R, E, L]
    experts = shares.mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_language = shares / shares.sum(axis=-1, keepdims=True)
    uncertain = np.where(experts > 0, entropy(np.nan_to_num(of_language)), 0.0)
    whole = np.log(shares.shape[-1])
    return {("all",): (whole - (experts * uncertain).sum(axis=-1)) / whole}


def _by_layer(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    run: str,
    languages: Sequence[str] | None,
    seed: int,
    prepared: Callable[[Any], Any],
) -> tuple[Array, Array]:
    texts, by_layer = find_samples(connection, metric, run, languages, None, {})
    units = len(texts.names)
    weights = np.concatenate([np.ones((1, units), np.uint16), drawn(np.random.default_rng(seed), units, REPLICATES)])
    columns = []
    for _, samples in by_layer:
        values = prepared(samples).weighted(weights)
        columns.append(np.nanmean(np.stack(list(values.values())), axis=0))
    found = np.stack(columns, axis=1)
    return found[0], found[1:]


def pair_matrix(rows: Sequence[dict[str, Any]], column: str) -> tuple[list[str], Array]:
    """Return the languages and [layers, L, L] of a view's rows with lang_a and lang_b; the diagonal is NaN."""
    languages = sorted({row[name] for row in rows for name in ("lang_a", "lang_b")})
    layers = sorted({row["layer"] for row in rows})
    found = np.full((len(layers), len(languages), len(languages)), np.nan)
    places = {lang: at for at, lang in enumerate(languages)}
    for row in rows:
        a, b, layer = places[row["lang_a"]], places[row["lang_b"]], layers.index(row["layer"])
        value = row[column]
        found[layer, a, b] = found[layer, b, a] = np.nan if value is None else value
    return languages, found


def over_languages(matrix: Array, seed: int = 0) -> tuple[Array, Array]:
    """Return the mean over pairs, [layers], and replicates over languages drawn anew, [R, layers].

    A language that is drawn twice makes no pair with itself.
    """
    rng = np.random.default_rng(seed)
    replicates = []
    for _ in range(REPLICATES):
        chosen = rng.integers(matrix.shape[1], size=matrix.shape[1])
        part = matrix[:, chosen][:, :, chosen]
        part = np.where(chosen[:, None] == chosen[None, :], np.nan, part)
        replicates.append(np.nanmean(part, axis=(1, 2)))
    return np.nanmean(matrix, axis=(1, 2)), np.stack(replicates)


def zone(values: Array, layers: Sequence[int]) -> Array:
    """Return the mean over some layers of values [..., layers]."""
    return values[..., list(layers)].mean(axis=-1)


def by_language(rows: Sequence[dict[str, Any]], column: str) -> dict[str, list[float]]:
    """Return lang -> the values of its layers, of a view's rows."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        found[row["lang"]][row["layer"]] = row[column]
    return {lang: [values[layer] for layer in sorted(values)] for lang, values in sorted(found.items())}

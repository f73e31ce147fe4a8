"""How sure a metric is: bootstrap intervals over texts, and what it would be if languages made no difference.

Both resample what each text contributes, never the corpus: the counts of one layer are read once, text by text, and
every replicate is a product of two matrices (weights of texts x counts of texts). Texts with the same id are drawn
together in all languages, so that comparisons of languages stay comparisons of the same texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moetrace.analytics.database.errors import translate_duckdb_errors
from moetrace.analytics.database.names import check_runs, languages_of
from moetrace.store.errors import MoetraceError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import duckdb
    import polars as pl

Floats = npt.NDArray[np.float64]

TOGETHER = 64  # replicates in one product: bounds memory to that many times the texts


@dataclass(frozen=True)
class Layer:
    """One MoE layer of what is compared.

    - counts: language -> float32 [S, E], how often each of its texts chose each expert
    - divergence: language -> float64 [S], entropy-normalised divergence of each of its texts from the pivot's; only for
      pivot_similarity, which needs no counts
    - texts: language -> intp [S], the index of each text id over all languages
    """

    layer: int
    top_k: int
    counts: Mapping[str, npt.NDArray[np.float32]]
    divergence: Mapping[str, Floats]
    texts: Mapping[str, npt.NDArray[np.intp]]


# A metric's values for R replicates: key -> [R]; a key is what the view's row is about, beside run and layer.
Values = dict[tuple[Any, ...], Floats]
Resampled = dict[str, Floats]  # language -> [R, E], counts


def jaccard(counts: Resampled, top_k: int, n: int | None = None) -> Values:
    """Return the Jaccard overlap of expert sets; keys (lang_a, lang_b)."""
    experts = next(iter(counts.values())).shape[1]
    size = min(n or top_k, experts)
    sets = {}
    for lang, count in counts.items():
        # Descending counts, ties to the lower expert: a stable sort of what is negative.
        chosen = np.argsort(-count, axis=1, kind="stable")[:, :size]
        sets[lang] = np.zeros(count.shape, dtype=np.float32)
        np.put_along_axis(sets[lang], chosen, 1, axis=1)
    found = {}
    for lang_a, lang_b in combinations(sorted(counts), 2):
        both = np.einsum("re,re->r", sets[lang_a], sets[lang_b]).astype(np.float64)
        found[lang_a, lang_b] = both / (2 * size - both)
    return found


def divergence(counts: Resampled, top_k: int) -> Values:  # noqa: ARG001  every metric takes it
    """Return the Jensen-Shannon divergence of activation shares, nats; keys (lang_a, lang_b)."""
    shares = {lang: _shares(count) for lang, count in counts.items()}
    entropies = {lang: _entropy(share) for lang, share in shares.items()}
    return {
        (a, b): np.maximum(_entropy((shares[a] + shares[b]) / 2) - (entropies[a] + entropies[b]) / 2, 0)
        for a, b in combinations(sorted(counts), 2)
    }


def specificity(counts: Resampled, top_k: int) -> Values:
    """Return a over the mean of a over languages (1e-8 where that is 0); keys (lang, expert)."""
    frequencies = {lang: _shares(count) * top_k for lang, count in counts.items()}
    mean = sum(frequencies.values(), np.zeros(1)) / len(frequencies)
    mean = np.where(mean == 0, 1e-8, mean)
    found: Values = {}
    for lang, frequency in frequencies.items():
        for expert, values in enumerate((frequency / mean).T):
            found[lang, expert] = values
    return found


def routing_entropy(counts: Resampled, top_k: int) -> Values:  # noqa: ARG001
    """Return the entropy of activation shares, nats; keys (lang,)."""
    return {(lang,): _entropy(_shares(count)) for lang, count in counts.items()}


METRICS: dict[str, tuple[Callable[..., Values], tuple[str, ...], str]] = {
    "jaccard": (jaccard, ("lang_a", "lang_b"), "jaccard"),
    "divergence": (divergence, ("lang_a", "lang_b"), "jsd"),
    "specificity": (specificity, ("lang", "expert"), "specificity"),
    "routing_entropy": (routing_entropy, ("lang",), "entropy"),
    "pivot_similarity": (dict, ("lang",), "similarity"),
}


def bootstrap(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    **arguments: Any,
) -> pl.DataFrame:
    """Return a metric with percentile bootstrap intervals over texts.

    metric: jaccard (argument n), divergence, specificity, routing_entropy or pivot_similarity (argument pivot_lang)
    columns: layer, the metric's keys, its value as the view has it, lower and upper (the interval's ends at `level`),
    error (standard deviation of the replicates)

    Text ids are drawn with replacement, as many as there are, the same for all languages. Needs routes, or, for
    pivot_similarity, profiles. Source: Efron (1979); paired over text ids as translations are.

    Raises UnknownNameError for an unknown metric, run or language, MoetraceError where the run lacks what it needs.
    """
    plan = _Plan(connection, metric, run, languages, layers, arguments)
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [np.bincount(rng.integers(0, plan.texts, plan.texts), minlength=plan.texts) for _ in range(replicates)]
    )
    weights = drawn.astype(np.uint16)
    rows = []
    for layer in plan.layers():
        values = plan.measured(layer, np.ones((1, plan.texts), dtype=np.uint16))
        replicated = plan.measured(layer, weights)
        for key, (value,) in values.items():
            found = replicated[key]
            lower, upper = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
            rows.append((layer.layer, *key, float(value), float(lower), float(upper), float(np.nanstd(found))))
    return _frame(rows, ("layer", *plan.keys, plan.column, "lower", "upper", "error"))


def null_model(
    connection: duckdb.DuckDBPyConnection,
    metric: str,
    *,
    run: str | None = None,
    languages: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    permutations: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    **arguments: Any,
) -> pl.DataFrame:
    """Return a metric beside what it is when the languages of each text id are permuted at random.

    columns: layer, the metric's keys, its value over the texts that all `languages` have, null_mean, null_lower,
    null_upper (at `level`), p_value (share of permutations at least as far from their mean as the value is, the value
    counted among them)

    What lies within the null's interval is no difference between languages. Only texts that all chosen languages have
    can be permuted. Cost grows with the square of the number of languages. Raises as `bootstrap`.
    """
    plan = _Plan(connection, metric, run, languages, layers, arguments)
    shared = plan.shared_texts()
    rng = np.random.default_rng(seed)
    names = plan.languages
    orders = rng.permuted(
        np.broadcast_to(np.arange(len(names), dtype=np.uint8), (permutations, len(shared), len(names))), axis=2
    )
    orders = np.concatenate([np.broadcast_to(np.arange(len(names), dtype=np.uint8), (1, *orders.shape[1:])), orders])
    rows = []
    for layer in plan.layers():
        found = plan.relabelled(layer, shared, orders)
        for key, values in found.items():
            value, null = float(values[0]), values[1:]
            lower, upper = np.quantile(null, [(1 - level) / 2, (1 + level) / 2])
            mean = float(null.mean())
            # Rounding must not make a permutation that changes nothing look nearer than the value itself.
            as_far = int(np.sum(np.abs(null - mean) >= abs(value - mean) * (1 - 1e-12)))
            p_value = (1 + as_far) / (1 + len(null))
            rows.append((layer.layer, *key, value, mean, float(lower), float(upper), p_value))
    return _frame(rows, ("layer", *plan.keys, plan.column, "null_mean", "null_lower", "null_upper", "p_value"))


class _Plan:
    """What is compared: a metric, a run, its languages and layers, and where their texts stand."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        metric: str,
        run: str | None,
        languages: Sequence[str] | None,
        layers: Sequence[int] | None,
        arguments: dict[str, Any],
    ) -> None:
        if metric not in METRICS:
            raise UnknownNameError.among("metric with an uncertainty", metric, METRICS, "moetrace")
        self._metric, self.keys, self.column = METRICS[metric]
        self._connection, self._arguments = connection, arguments
        self._of_profiles = metric == "pivot_similarity"
        self._run, self._top_k, self._experts, pivot = self._find_run(run)
        self._pivot = str(arguments.get("pivot_lang") or pivot) if self._of_profiles else ""
        self.languages = self._find_languages(languages)
        self._layers = layers
        self._seqs, self._texts, self.texts = self._find_texts()

    def _fetch(self, query: str, *values: object) -> dict[str, npt.NDArray[Any]]:
        with translate_duckdb_errors():
            found: dict[str, npt.NDArray[Any]] = self._connection.execute(query, list(values)).fetchnumpy()
        return found

    def _find_run(self, run: str | None) -> tuple[str, int, int, str | None]:
        with translate_duckdb_errors():
            known = self._connection.execute(
                "select run, top_k, num_experts, pivot_lang from runs order by run"
            ).fetchall()
        if run is not None:
            check_runs(self._connection, [run])
        elif len(known) != 1:
            names = ", ".join(name for name, *_ in known)
            raise UnknownNameError(f"the store has {len(known)} runs ({names}); say which")
        ((name, top_k, experts, pivot),) = [found for found in known if run in (None, found[0])]
        return name, top_k, experts, pivot

    def _find_languages(self, languages: Sequence[str] | None) -> list[str]:
        languages_of(self._connection, self._run, [self._pivot] if self._pivot else None)
        return list(languages_of(self._connection, self._run, languages))

    def _find_texts(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[np.intp]], int]:
        """Return for each language its texts' numbers, ascending, and the index of their ids; and how many ids."""
        names = sorted({*self.languages, *([self._pivot] if self._pivot else [])})
        rows = self._fetch(
            "select lang, seq, dense_rank() over (order by text_id) - 1 as text from sequences "
            "where run = ? and list_contains(?, lang) order by lang, seq",
            self._run,
            names,
        )
        if not len(rows["seq"]):
            raise MoetraceError(f"run '{self._run}' has roll-ups only: without its texts nothing can be resampled")
        mine = {lang: rows["lang"] == lang for lang in names}
        return (
            {lang: rows["seq"][at] for lang, at in mine.items()},
            {lang: rows["text"][at].astype(np.intp) for lang, at in mine.items()},
            int(rows["text"].max()) + 1,
        )

    def shared_texts(self) -> npt.NDArray[np.intp]:
        """Return the indices of the text ids that all languages have."""
        found = self._texts[self.languages[0]]
        for lang in [*self.languages[1:], *([self._pivot] if self._pivot else [])]:
            found = np.intersect1d(found, self._texts[lang])
        if not len(found):
            raise MoetraceError(f"run '{self._run}': {', '.join(self.languages)} have no text in common to permute")
        return found

    def layers(self) -> Iterator[Layer]:
        """Yield the layers one after another, each read once."""
        wanted = self._fetch("select layer from moe_layers where run = ? order by layer", self._run)["layer"].tolist()
        for layer in self._layers or ():
            if layer not in wanted:
                raise UnknownNameError(
                    f"run '{self._run}' has no MoE layer {layer}; it has {wanted[0]} to {wanted[-1]}"
                )
        for layer in wanted if self._layers is None else sorted(set(self._layers)):
            if self._of_profiles:
                yield Layer(layer, self._top_k, {}, self._divergences(layer), self._texts)
            else:
                yield Layer(layer, self._top_k, self._counts(layer), {}, self._texts)

    def _counts(self, layer: int) -> dict[str, npt.NDArray[np.float32]]:
        found = {}
        for lang in self.languages:
            rows = self._fetch(
                "select tokens.seq, routes.expert, count(*) as count from routes inner join tokens "
                "on routes.run = tokens.run and routes.lang = tokens.lang and routes.shard = tokens.shard "
                "and routes.token = tokens.token where routes.run = ? and routes.lang = ? and routes.layer = ? "
                "group by tokens.seq, routes.expert",
                self._run,
                lang,
                layer,
            )
            if not len(rows["seq"]):
                raise MoetraceError(f"run '{self._run}' was traced without routes: nothing can be resampled")
            count = np.zeros((len(self._seqs[lang]), self._experts), dtype=np.float32)
            count[np.searchsorted(self._seqs[lang], rows["seq"]), rows["expert"]] = rows["count"]
            found[lang] = count
        return found

    def _divergences(self, layer: int) -> dict[str, Floats]:
        pivot = self._profiles(self._pivot, layer)
        at = np.full(self.texts, -1)
        at[self._texts[self._pivot]] = np.arange(len(pivot))
        found = {}
        for lang in self.languages:
            if lang == self._pivot:
                continue
            own, other = self._profiles(lang, layer), at[self._texts[lang]]
            values = np.full(len(own), np.nan)
            paired = other >= 0
            values[paired] = _normalized_divergence(own[paired], pivot[other[paired]])
            found[lang] = values
        return found

    def _profiles(self, lang: str, layer: int) -> Floats:
        rows = self._fetch(
            "select seq, expert, probability from profiles where run = ? and lang = ? and layer = ?",
            self._run,
            lang,
            layer,
        )
        if not len(rows["seq"]):
            raise MoetraceError(f"run '{self._run}' was traced without profiles, which pivot_similarity is made of")
        found = np.zeros((len(self._seqs[lang]), self._experts))
        found[np.searchsorted(self._seqs[lang], rows["seq"]), rows["expert"]] = rows["probability"]
        return found

    def measured(self, layer: Layer, weights: npt.NDArray[np.uint16]) -> Values:
        """Return the metric for texts taken `weights` [R, texts] times."""
        if self._of_profiles:
            return {
                (lang,): 1 - _weighted_mean(values, weights[:, layer.texts[lang]])
                for lang, values in layer.divergence.items()
            }
        counts = {lang: _product(weights[:, layer.texts[lang]], count) for lang, count in layer.counts.items()}
        return self._metric(counts, layer.top_k, **self._arguments)

    def relabelled(self, layer: Layer, shared: npt.NDArray[np.intp], orders: npt.NDArray[np.uint8]) -> Values:
        """Return the metric where the r-th order [R, shared texts, languages] says whose text each language gets."""
        rows = {}
        for lang in layer.counts or layer.divergence:
            at = np.full(self.texts, -1)
            at[layer.texts[lang]] = np.arange(len(layer.texts[lang]))
            rows[lang] = at[shared]
        if self._of_profiles:
            names = list(layer.divergence)
            stacked = np.stack([layer.divergence[lang][rows[lang]] for lang in names])
            # The pivot keeps its texts: the others are permuted among themselves.
            kept = [self.languages.index(lang) for lang in names]
            ranks = np.argsort(np.argsort(orders[:, :, kept], axis=2), axis=2)
            ranks[0] = np.arange(len(names))
            texts = np.arange(len(shared))
            return {(lang,): 1 - stacked[ranks[:, :, i], texts].mean(axis=1) for i, lang in enumerate(names)}
        counts: Resampled = {}
        for index, lang in enumerate(self.languages):
            total = np.zeros((len(orders), self._experts))
            for other, name in enumerate(self.languages):
                total += _product((orders[:, :, index] == other).astype(np.uint16), layer.counts[name][rows[name]])
            counts[lang] = total
        return self._metric(counts, layer.top_k, **self._arguments)


def _product(weights: npt.NDArray[np.uint16], counts: npt.NDArray[np.float32]) -> Floats:
    """Return weights [R, S] x counts [S, E]: exact, as counts are whole numbers below 2^53."""
    parts = [
        weights[start : start + TOGETHER].astype(np.float64) @ counts.astype(np.float64)
        for start in range(0, len(weights), TOGETHER)
    ]
    return np.concatenate(parts)


def _weighted_mean(values: Floats, weights: npt.NDArray[np.uint16]) -> Floats:
    known = ~np.isnan(values)
    taken = weights[:, known].astype(np.float64)
    total = taken.sum(axis=1)
    with np.errstate(invalid="ignore"):  # a draw of none of the shared texts has no mean
        return (taken @ values[known]) / total  # type: ignore[no-any-return]


def _shares(counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # a draw without any text of a language has no shares
        return counts / counts.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _entropy(shares: Floats) -> Floats:
    """Return H of each row, nats."""
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=1)  # type: ignore[no-any-return]


def _normalized_divergence(p: Floats, q: Floats) -> Floats:
    """Return JSD / (ln E - (H(p) + H(q)) / 2) of each row, 0 where the denominator is below 1e-8."""
    halves = (_entropy(p) + _entropy(q)) / 2
    room = np.log(p.shape[1]) - halves
    jsd = np.maximum(_entropy((p + q) / 2) - halves, 0)
    return np.where(room < 1e-8, 0, np.minimum(jsd / np.where(room < 1e-8, 1, room), 1))


def _frame(rows: list[tuple[Any, ...]], columns: tuple[str, ...]) -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415

    return pl.DataFrame(rows, schema=list(columns), orient="row").sort(columns[: len(columns) - 4])

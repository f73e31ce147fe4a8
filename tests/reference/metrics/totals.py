"""What metrics are made of: the routing of a run added up in NumPy, and parts of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import wraps
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.stores import Text, World

Row = dict[str, Any]


@dataclass(frozen=True)
class Routing:
    """What metrics are made of: arrays are [layers, experts] for each language; profiles are by text id.

    `indexes` are the places of `layers` in the arrays of `texts`, which are never cut to fewer layers.
    """

    run: str
    layers: Sequence[int]
    top_k: int
    pivot: str
    tokens: Mapping[str, int]
    count: Mapping[str, np.ndarray]
    weight_sum: Mapping[str, np.ndarray]
    probability: Mapping[str, np.ndarray]
    profiles: Mapping[str, Mapping[str, np.ndarray]]
    texts: Mapping[str, Sequence[Text]]
    indexes: Sequence[int]

    @property
    def languages(self) -> list[str]:
        return sorted(self.count)

    @property
    def num_experts(self) -> int:
        return next(iter(self.count.values())).shape[1]

    def frequency(self, lang: str) -> np.ndarray:
        return self.count[lang] / self.tokens[lang]

    def share(self, lang: str) -> np.ndarray:
        return self.count[lang] / self.count[lang].sum(axis=1, keepdims=True)

    def text_counts(self, lang: str) -> np.ndarray:
        """Return how often each text of a language uses each expert, [texts, layers, experts]."""
        texts = self.texts[lang]
        found = np.zeros((len(texts), len(self.layers), self.num_experts))
        layer = np.arange(len(self.layers))[:, None]
        for number, text in enumerate(texts):
            np.add.at(found[number], (layer, text.experts[:, list(self.indexes)]), 1)
        return found

    def variance(self, lang: str) -> np.ndarray | None:
        """Return V(p), [layers, experts]; None where it cannot be told."""
        if len(self.texts.get(lang, ())) < 2:
            return None
        count, share = self.text_counts(lang), self.share(lang)
        decisions = count.sum(axis=2, keepdims=True)
        number = len(count)
        return number / (number - 1) * ((count - share * decisions) ** 2).sum(axis=0) / decisions.sum(axis=0) ** 2

    def cells(self) -> Iterator[tuple[int, int, int]]:
        for index, layer in enumerate(self.layers):
            for expert in range(self.num_experts):
                yield index, layer, expert

    def pairs(self) -> Iterator[tuple[int, int, str, str]]:
        for index, layer in enumerate(self.layers):
            for lang_a, lang_b in combinations(self.languages, 2):
                yield index, layer, lang_a, lang_b


def routing(world: World) -> Routing:
    """Add up a world's texts."""
    record = world.record
    shape = (len(record.moe_layers), record.num_experts)
    tokens: dict[str, int] = {}
    count = {lang: np.zeros(shape) for lang in world.texts}
    weight_sum = {lang: np.zeros(shape) for lang in world.texts}
    probability = {lang: np.zeros(shape) for lang in world.texts}
    layer = np.arange(shape[0])[:, None]
    for lang, texts in world.texts.items():
        tokens[lang] = sum(len(text.token_ids) for text in texts)
        for text in texts:
            probability[lang] += len(text.token_ids) * text.profile.astype(np.float64)
            np.add.at(count[lang], (layer, text.experts), 1)
            np.add.at(weight_sum[lang], (layer, text.experts), text.weights.astype(np.float64))
        probability[lang] /= tokens[lang]
    return Routing(
        run=record.run,
        layers=record.moe_layers,
        top_k=record.top_k,
        pivot=record.corpus["pivot"],
        tokens=tokens,
        count=count,
        weight_sum=weight_sum,
        probability=probability,
        profiles={
            lang: {text.text_id: text.profile.astype(np.float64) for text in texts}
            for lang, texts in world.texts.items()
        },
        texts=world.texts,
        indexes=range(shape[0]),
    )


def of_languages(data: Routing, languages: Sequence[str] | None) -> Routing:
    kept = [lang for lang in data.languages if languages is None or lang in languages]
    return replace(data, count={lang: data.count[lang] for lang in kept})


def of_layers(data: Routing, layers: Sequence[int] | None) -> Routing:
    kept = [index for index, layer in enumerate(data.layers) if layers is None or layer in layers]
    cut = {
        name: {lang: values[kept] for lang, values in getattr(data, name).items()}
        for name in ("count", "weight_sum", "probability")
    }
    profiles = {
        lang: {text_id: profile[kept] for text_id, profile in texts.items()} for lang, texts in data.profiles.items()
    }
    return replace(
        data,
        **cut,
        profiles=profiles,
        layers=[data.layers[index] for index in kept],
        indexes=[data.indexes[index] for index in kept],
    )


def of_any_layers(metric: Callable[..., list[Row]]) -> Callable[..., list[Row]]:
    """Give a metric the argument `layers`."""

    @wraps(metric)
    def of_some_layers(data: Routing, *, layers: Sequence[int] | None = None, **arguments: Any) -> list[Row]:
        return metric(of_layers(data, layers), **arguments)

    return of_some_layers


def of_any_languages(metric: Callable[..., list[Row]]) -> Callable[..., list[Row]]:
    """Give a metric the argument `languages`."""

    @wraps(metric)
    def of_some_languages(data: Routing, *, languages: Sequence[str] | None = None, **arguments: Any) -> list[Row]:
        return metric(of_languages(data, languages), **arguments)

    return of_some_languages

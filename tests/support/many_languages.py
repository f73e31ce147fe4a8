"""A run of as many languages as FLORES+ has, of roll-ups: the languages of a script have experts in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import langcodes
import numpy as np
from language_data.population_data import LANGUAGE_SPEAKING_POPULATION

from tests.support.stores import make_record, write_counts

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.read.reader import Store

TOKENS = 4000


def many_codes(count: int = 200) -> list[str]:
    """Return codes such as swh_Latn of the languages that most people speak, English first."""
    spoken = sorted(LANGUAGE_SPEAKING_POPULATION.items(), key=lambda item: (-item[1], item[0]))
    codes: dict[str, None] = {"eng_Latn": None}
    for name, _ in spoken:
        tag = langcodes.Language.get(name).maximize()
        if len(name) <= 3 and tag.script:
            codes[f"{tag.to_alpha3()}_{tag.script}"] = None
    return list(codes)[:count]


def write_many(path: Path, languages: int = 200, layers: int = 48, experts: int = 128, top_k: int = 8) -> Store:
    """Write counts of a run in which scripts, and within them languages, prefer experts of their own."""
    codes = many_codes(languages)
    rng = np.random.default_rng(11)
    tastes: dict[str, np.ndarray] = {}
    depth = 1 - np.cos(np.linspace(0, 2 * np.pi, layers))[:, None]  # most apart in the middle
    counts = {}
    for code in codes:
        script = code.partition("_")[2]
        tastes.setdefault(script, rng.normal(size=(layers, experts)))
        taste = (0.4 * tastes[script] + 0.35 * rng.normal(size=(layers, experts))) * (0.3 + depth)
        share = np.exp(taste)
        share = np.minimum(share / share.sum(axis=1, keepdims=True), 1 / top_k)
        share /= share.sum(axis=1, keepdims=True)
        counts[code] = np.stack([rng.multinomial(TOKENS * top_k, row) for row in share]).clip(max=TOKENS)
        for row in counts[code]:  # what was above the most that one expert can have goes to the least used
            order = np.argsort(row)
            missing = TOKENS * top_k - int(row.sum())
            row[order[: len(order) // 2]] += missing // (len(order) // 2)
            row[order[0]] += missing % (len(order) // 2)
    record = make_record(tables=("usage",), languages=codes, moe_layers=range(layers), num_experts=experts, top_k=top_k)
    return write_counts(path, record, counts, dict.fromkeys(codes, TOKENS))

"""Simulate, and print the tables of docs/statistics.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moetrace.analytics.database.connection import connect
from moetrace.analytics.uncertainty.statistics import METRICS
from tests.calibration import bias, nulls
from tests.calibration.coverage import INTERVALS, coverage, coverage_of_means
from tests.calibration.population import Population

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LANGUAGES = ("eng_Latn", "ces_Latn", "slk_Latn", "cat_Latn", "fra_Latn", "deu_Latn", "kor_Hang", "jpn_Jpan")
UDHR = ("eng_Latn", "deu_Latn", "spa_Latn", "swh_Latn")
TEXTS = (20, 50, 200)
NEAR, FAR = ("ces_Latn", "slk_Latn"), ("ces_Latn", "eng_Latn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with ui-strings/ and udhr/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the traces are kept")
    parser.add_argument("--samples", type=int, default=400, help="of coverage, power and bias")
    parser.add_argument("--draws", type=int, default=1000, help="of p-values under the null")
    parsed = parser.parse_args()
    started = time.monotonic()
    populations = {
        name: Population.read(connect(_traced(parsed.data / name, parsed.output / name, languages)))
        for name, languages in (("ui-strings", LANGUAGES), ("udhr", UDHR))
    }
    ui = populations["ui-strings"]
    print(f"{ui.size} parallel texts of UI strings, {populations['udhr'].size} of the UDHR\n", flush=True)
    _coverage(populations, parsed.samples)
    _nulls(ui, parsed.draws)
    _power(ui, parsed.samples)
    _bias(ui, parsed.samples)
    print(f"\n{time.monotonic() - started:.0f} s")


def _traced(corpus: Path, store: Path, languages: Sequence[str]) -> Path:
    command = [
        sys.executable,
        "-m",
        "moetrace.cli.main",
        "trace",
        "bundled",
        "--corpus",
        str(corpus),
        "--store",
        str(store),
    ]
    subprocess.run([*command, *(part for lang in languages for part in ("--lang", lang))], check=True)
    return store


def _coverage(populations: dict[str, Population], samples: int) -> None:
    rows = []
    for name, population in populations.items():
        for metric in METRICS:
            for texts in TEXTS if name == "ui-strings" else TEXTS[:1]:
                found = coverage(population, metric, texts, samples, layers=(0, population.layers // 2))
                rows.append((name, metric, texts, *(f"{found[interval]:.3f}" for interval in INTERVALS)))
    _print("Coverage of 95% intervals", ("population", "metric", "texts", *INTERVALS), rows)
    rows = [
        (name, mean, texts, f"{found:.3f}")
        for name, population in populations.items()
        for texts in (TEXTS if name == "ui-strings" else TEXTS[:1])
        for mean, found in coverage_of_means(
            population, texts, samples, layers=(0, population.layers // 2, population.layers - 1)
        ).items()
    ]
    _print("Coverage of 95% intervals of means over language pairs", ("population", "mean", "texts", "coverage"), rows)


def _nulls(population: Population, draws: int) -> None:
    rows = []
    for metric in METRICS:
        for languages in (2, 8):
            some = _with(population, NEAR, languages)
            found = nulls.p_values_under_the_null(some, metric, 50, draws, NEAR)
            rows.append((metric, languages, *_of_p(found)))
    for metric in ("divergence", "jaccard"):
        found = nulls.p_values_under_the_null(_with(population, NEAR, 2), metric, 50, draws, NEAR, paired=False)
        rows.append((f"{metric}, texts not parallel", 2, *_of_p(found)))
    columns = ("metric", "languages in the call", "KS p", "share <= .05", "KS p over layers", "share <= .05")
    _print(f"p-values where the null is true, {draws} samples of 50 texts", columns, rows)


def _of_p(found: dict[str, list[float]]) -> Iterable[str]:
    for values in found.values():
        yield f"{nulls.uniform(values):.2f}"
        yield f"{np.mean(np.array(values) <= 0.05):.3f}"


def _power(population: Population, draws: int) -> None:
    rows = []
    for pair in (NEAR, FAR):
        some = _with(population, pair, 2)
        for share in (0.25, 1):
            shares = [nulls.power(some, "divergence", texts, draws, pair, share) for texts in (10, 20, 50)]
            rows.append((" ".join(pair), f"{bias.truth(some, pair):.4f}", share, *(f"{found:.2f}" for found in shares)))
    columns = ("languages", "JSD", "share of texts that differ", "10 texts", "20", "50")
    _print("Power: how often p of divergence is at most .05 in layer 0", columns, rows)


def _bias(population: Population, samples: int) -> None:
    rows = []
    for texts in (10, 20, 50, 500):
        found = bias.halves(population, "eng_Latn", texts, samples)
        rows.append(("two halves of English", "0", texts, *_means(found)))
    for pair in (NEAR, FAR):
        expected = bias.truth(population, pair)
        for texts in (10, 20, 50):
            found = bias.pairs(population, pair, texts, samples)
            rows.append((" ".join(pair), f"{expected:.4f}", texts, *_means(found)))
    columns = ("languages", "truth", "texts", "jsd", "jsd_corrected", "jsd_corrected_paired", "jsd_jackknife", "noise")
    _print("Divergence of samples, mean over samples and layers ± 2 standard errors", columns, rows)


def _means(found: bias.Estimates) -> Iterable[str]:
    for values in found.values():
        yield f"{values.mean():.4f} ± {2 * values.std() / len(values) ** 0.5:.4f}"


def _with(population: Population, pair: tuple[str, str], languages: int) -> Population:
    others = [lang for lang in population.languages if lang not in {*pair, population.pivot}]
    kept = [*pair, *([population.pivot] if population.pivot not in pair else []), *others][:languages]
    profiled = {*kept, population.pivot}
    return Population(
        {lang: population.counts[lang] for lang in kept},
        {lang: found for lang, found in population.profiles.items() if lang in profiled},
        population.tokens,
        population.names,
        population.pivot,
        population.top_k,
    )


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row)} |")
    print(flush=True)


if __name__ == "__main__":
    main()

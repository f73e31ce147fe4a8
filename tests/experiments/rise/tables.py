"""The tables of the experiment, from its raw results alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.experiments.rise.arms import DESCRIBED, FULL_RATES, RATES
from tests.experiments.rise.curves import Curve, Paired, area_between, curve, holm, paired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TOLERATED = 0.2  # nats a token of damage at which a rate is chosen
DAMAGES = (0.05, 0.1, 0.2, 0.5)
REFERENCE = "rise"

Results = dict[str, Any]
Curves = dict[str, dict[int, list[Curve]]]  # method -> seed -> a curve for each of its masks


def label(training: Mapping[str, Any]) -> str:
    """Return the name of a way to train: its method, and of everything its rate."""
    return f"full {training['rate']:g}" if training["method"] == "full" else str(training["method"])


def others_of(results: Results, target: str, *, similar: bool) -> list[str]:
    """Return the languages that damage is measured on: all but the target, or those most like it."""
    if similar:
        return list(results["similar"][target])
    return [lang for lang in results["languages"] if lang != target]


def curve_of(results: Results, training: Mapping[str, Any], *, similar: bool = False) -> Curve:
    """Return the curve of one training."""
    target = training["target"]
    return curve(training["losses"], results["languages"], target, others_of(results, target, similar=similar))


def curves_of(results: Results, target: str, *, similar: bool = False) -> Curves:
    """Return the curves of a target's trainings, by way to train and seed."""
    found: Curves = defaultdict(lambda: defaultdict(list))
    for training in results["trainings"]:
        if training["target"] == target:
            found[label(training)][training["seed"]].append(curve_of(results, training, similar=similar))
    return found


def choose_rates(results: Results) -> dict[str, dict[str, float]]:
    """Return for each target and method the rate that gains most within `TOLERATED` damage, on development texts."""
    best: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for training in results["sweep"]:
        gained = curve_of(results, training).gain_within(TOLERATED)
        known = best[training["target"]].get(training["method"])
        if known is None or gained > known[0]:
            best[training["target"]][training["method"]] = (gained, training["rate"])
    return {target: {method: rate for method, (_, rate) in rates.items()} for target, rates in best.items()}


def differences(curves: Curves, method: str) -> list[float]:
    """Return rise's area above a method for each seed, the mean over the method's masks.

    A seed has none where one of the two trainings does no damage at all.
    """
    found = [
        statistics.mean(area_between(ours[0], theirs) for theirs in curves[method][seed])
        for seed, ours in sorted(curves[REFERENCE].items())
        if curves[method].get(seed)
    ]
    return [one for one in found if np.isfinite(one)]


def methods_of(results: Results) -> list[str]:
    """Return every way to train, in the order of the trainings."""
    return list(dict.fromkeys(label(training) for training in results["trainings"]))


def tables(results: Results) -> str:
    """Return every table as Markdown."""
    return "\n\n".join(
        [
            f"Rates, on development texts: gain at damage of {TOLERATED:g} at most (gain / damage at the end)",
            sweep_table(results),
            "Each way at its rate, on held-out texts: nats a token, mean ± sd over seeds (*: or at the end)",
            outcome_table(results),
            "The area by which RISE's gain lies above the other's, at equal damage to all other languages",
            comparison_table(results, similar=False),
            "The same, at equal damage to the most similar languages",
            comparison_table(results, similar=True),
        ]
    )


def _markdown(header: list[str], rows: Iterable[list[str]], *, words: int = 2) -> str:
    marks = ["---"] * words + ["---:"] * (len(header) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, marks, *rows])


def sweep_table(results: Results) -> str:
    """Return what each rate gives, the chosen one in bold."""
    cells: dict[tuple[str, str], dict[float, str]] = defaultdict(dict)
    chosen = choose_rates(results)
    for training in results["sweep"]:
        target, method, rate = training["target"], training["method"], training["rate"]
        found = curve_of(results, training)
        gained = f"{found.gain_within(TOLERATED):.3f}"
        shown = f"**{gained}**" if chosen[target][method] == rate else gained
        cells[target, method][rate] = f"{shown} ({found.gain[-1]:.2f} / {found.damage[-1]:.2f})"
    rates = [rate for rate in sorted({*RATES, *FULL_RATES}) if any(rate in found for found in cells.values())]
    rows = [[target, method, *(found.get(rate, "") for rate in rates)] for (target, method), found in cells.items()]
    return _markdown(["language", "method", *(f"{rate:g}" for rate in rates)], rows)


def outcome_table(results: Results) -> str:
    """Return what came out of each way to train, by target."""
    header = ["language", "method", "rate", "parameters", "load", *(f"gain at {one:g}" for one in DAMAGES)]
    header += ["gain", "damage", "to similar ones", "to the worst"]
    rows = []
    for target in results["targets"]:
        plain, similar = curves_of(results, target), curves_of(results, target, similar=True)
        for method in methods_of(results):
            mine = [one for one in results["trainings"] if one["target"] == target and label(one) == method]
            if mine:
                rows.append([target, method, *_outcome(results, mine, plain[method], similar[method])])
    return _markdown(header, rows)


def _outcome(
    results: Results,
    trainings: list[dict[str, Any]],
    plain: Mapping[int, list[Curve]],
    similar: Mapping[int, list[Curve]],
) -> list[str]:
    def over_seeds(curves: Mapping[int, list[Curve]], value: Callable[[Curve], float]) -> str:
        return _spread([statistics.mean(value(one) for one in found) for found in curves.values()])

    first = trainings[0]
    masks = results["masks"][first["target"]]
    loads = [masks[f"{one['method']}/{one['draw']}"]["load"] for one in trainings]
    known = [one for one in loads if one is not None]
    return [
        f"{first['rate']:g}",
        f"{first['parameters']:,}",
        f"{statistics.mean(known):.2f}" if known else "",
        *(
            over_seeds(plain, lambda one, at=damage: one.gain_within(at)) + " *" * (not _reached(plain, damage))
            for damage in DAMAGES
        ),
        over_seeds(plain, lambda one: float(one.gain[-1])),
        over_seeds(plain, lambda one: float(one.damage[-1])),
        over_seeds(similar, lambda one: float(one.damage[-1])),
        f"{statistics.mean(_worst(results, one) for one in trainings):+.2f}",
    ]


def _reached(curves: Mapping[int, list[Curve]], damage: float) -> bool:
    """Whether every training does as much damage as that."""
    return all(curve.reach >= damage - 1e-9 for found in curves.values() for curve in found)


def _worst(results: Results, training: Mapping[str, Any]) -> float:
    places = [at for at, lang in enumerate(results["languages"]) if lang != training["target"]]
    table = np.asarray(training["losses"])[:, places]
    return float((table[-1] - table[0]).max())


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def comparison_table(results: Results, *, similar: bool) -> str:
    """Return the paired comparison of RISE with every other way, over the targets' seeds together."""
    by_target = [curves_of(results, target, similar=similar) for target in results["targets"]]
    found: dict[str, Paired] = {}
    means: dict[str, list[str]] = {}
    for method in methods_of(results):
        values = [] if method == REFERENCE else [differences(curves, method) for curves in by_target]
        if sum(map(len, values)) > 1:
            found[method] = paired([one for mine in values for one in mine])
            means[method] = [f"{statistics.mean(mine):+.3f}" if mine else "" for mine in values]
    adjusted = holm([one.flip_p for one in found.values()])
    rows = [
        [
            method,
            DESCRIBED[method.split()[0]],
            *means[method],
            f"{one.n}",
            f"{one.mean:+.3f}",
            f"{one.interval[0]:+.3f} to {one.interval[1]:+.3f}",
            f"{one.t_p:.2g}",
            f"{one.flip_p:.2g}",
            f"{p:.2g}",
        ]
        for (method, one), p in zip(found.items(), adjusted, strict=True)
    ]
    header = ["against", "", *results["targets"], "pairs", "area, nats", "95 %", "t-test p", "sign-flip p", "Holm"]
    return _markdown(header, rows)


def at_the_border(results: Results) -> list[str]:
    """Return the methods whose rate was chosen at the border of those that were tried."""
    return [
        f"{target}/{method}: {rate:g}"
        for target, rates in choose_rates(results).items()
        for method, rate in rates.items()
        for tried in [FULL_RATES if method == "full" else RATES]
        if rate in {min(tried), max(tried)}
    ]

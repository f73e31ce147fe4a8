"""The tables of the experiment, from its raw results alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from moetrace.analytics.evaluation.paired import EVERY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.analytics.evaluation.results import Results

ACCURACY, BITS = "accuracy", "answer_bits_per_byte"
BY_LANGUAGE = ("soft-0.5", "soft-2", "promote", "suppress")
AGAINST = {"baseline": "baseline", "random": "random experts", "load": "of the same load", "outside": "other layers"}

Row = dict[str, Any]


def as_json(results: Results) -> dict[str, Any]:
    """Return the raw results: every score and comparison, of controls the means over languages alone."""
    arms = [dict(arm) for arm in results.arms]
    controls = [arm["name"] for arm in arms if arm["kind"] == "control"]
    scores = results.scores.filter(~pl.col("arm").is_in(controls) | (pl.col("lang") == EVERY))
    return {
        "arms": [{name: value for name, value in arm.items() if name != "interventions"} for arm in arms],
        "scores": _rounded(scores),
        "comparisons": _rounded(results.comparisons),
    }


def tables(results: Mapping[str, Any]) -> str:
    """Return the experiment's tables."""
    return "\n\n".join([experts_table(results), overall_table(results), language_table(results)])


def experts_table(results: Mapping[str, Any]) -> str:
    """Return the experts that each half of the ids was measured with, which were found on the other."""
    lines = ["| measured half | task experts found on the other half (layer: experts) |", "|---|---|"]
    for fold, experts in enumerate(results["experts"]):
        layers: dict[int, list[int]] = {}
        for layer, expert, _ in experts:
            layers.setdefault(layer, []).append(expert)
        said = "; ".join(f"{layer}: {', '.join(map(str, found))}" for layer, found in sorted(layers.items()))
        lines.append(f"| {'AB'[fold]} | {said} |")
    return "\n".join(lines)


def overall_table(results: Mapping[str, Any]) -> str:
    """Return, as means over languages, each arm and what it differs by from the baseline and its controls."""
    less = [f"less {name}" for name in AGAINST.values()]
    heads = ["", "accuracy", *less, "bits a byte of the right text", *less]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for arm in _arms(results):
        cells = []
        for metric, digits in ((ACCURACY, 3), (BITS, 4)):
            cells.append(f"{_score(results, arm, metric, EVERY)['value']:.{digits}f}")
            cells += [_difference(results, arm, against, metric, EVERY, digits) for against in AGAINST]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def language_table(results: Mapping[str, Any]) -> str:
    """Return, in each language, the baseline and what some arms differ by from it and from random experts."""
    heads = [f"{arm}, less {AGAINST[against]}" for arm in BY_LANGUAGE for against in ("baseline", "random")]
    lines = [
        f"| language | items | accuracy | bits a byte | {' | '.join(heads)} |",
        f"|---|---:|---:|---:|{'---:|' * len(heads)}",
    ]
    languages = sorted({row["lang"] for row in results["scores"]} - {EVERY})
    for lang in languages:
        base = _score(results, "none", ACCURACY, lang)
        cells = [str(base["items"]), f"{base['value']:.3f}", f"{_score(results, 'none', BITS, lang)['value']:.3f}"]
        cells += [
            _difference(results, arm, against, BITS, lang, 3)
            for arm in BY_LANGUAGE
            for against in ("baseline", "random")
        ]
        lines.append(f"| {lang} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _arms(results: Mapping[str, Any]) -> list[str]:
    return [arm["name"] for arm in results["arms"] if arm["kind"] != "control"]


def _score(results: Mapping[str, Any], arm: str, metric: str, lang: str) -> Row:
    wanted = (arm, metric, lang)
    return next(row for row in results["scores"] if (row["arm"], row["metric"], row["lang"]) == wanted)


def _difference(results: Mapping[str, Any], arm: str, against: str, metric: str, lang: str, digits: int) -> str:
    """Return a difference with its interval; bold where zero is not in it."""
    wanted = (arm, against, metric, lang)
    for row in results["comparisons"]:
        if (row["arm"], row["against"], row["metric"], row["lang"]) == wanted:
            said = f"{row['difference']:+.{digits}f} ({row['lower']:+.{digits}f} to {row['upper']:+.{digits}f})"
            return f"**{said}**" if row["lower"] > 0 or row["upper"] < 0 else said
    return ""


def _rounded(frame: pl.DataFrame) -> list[Row]:
    return [
        {name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()}
        for row in frame.fill_nan(None).to_dicts()
    ]

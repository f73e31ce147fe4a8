"""The figures of the claims: curves over depth, and languages as points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from tests.experiments.figures.labels import PLACES, places
from tests.experiments.figures.style import series

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH, HEIGHT = 300, 190
DEPTH = "layer"


def numbers(results: dict[str, Any], *needed: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (texts, numbers) of every claim that has these numbers."""
    for one in results["claims"]:
        if set(needed) <= set(one["numbers"]):
            yield one["corpus"], one["numbers"]


def curves(rows: list[dict[str, Any]], names: list[str], title: str) -> alt.Chart:
    """Draw values by layer with their intervals, a panel for each corpus, of the rows that `_rows` makes."""
    encoded = series(names)
    x = alt.X("layer:Q", title=DEPTH, axis=alt.Axis(tickMinStep=1, grid=False))
    y = alt.Y("value:Q", title=title)
    base = alt.Chart(alt.Data(values=rows))
    band = base.mark_area(opacity=0.15).encode(
        x=x, y=alt.Y("lower:Q", title=title), y2="upper:Q", color=encoded["color"]
    )
    line = base.mark_line(point=True, strokeWidth=2).encode(x=x, y=y, **encoded)
    panel = alt.layer(band, line).properties(width=WIDTH, height=HEIGHT)
    corpora = list(dict.fromkeys(row["corpus"] for row in rows))
    facet = alt.Column("corpus:N", title=None, sort=corpora)
    return panel.facet(facet).resolve_scale(y="independent")


def _rows(
    corpus: str, name: str, values: Sequence[float], interval: Sequence[Sequence[float]] | None
) -> list[dict[str, Any]]:
    lower, upper = interval or (values, values)
    return [
        {"corpus": corpus, "series": name, "layer": layer, "value": value, "lower": low, "upper": high}
        for layer, (value, low, high) in enumerate(zip(values, lower, upper, strict=True))
    ]


def divergence(results: dict[str, Any]) -> alt.Chart:
    """Draw divergence by layer: plain, with each token id weighing alike, and with labels exchanged."""
    names = ["all tokens", "vocabulary-controlled", "exchanged labels"]
    rows = []
    for corpus, found in numbers(results, "divergence", "controlled"):
        rows += _rows(corpus, names[0], found["divergence"], found["interval"])
        rows += _rows(corpus, names[1], found["controlled"], found["controlled_interval"])
        rows += _rows(corpus, names[2], found["null_mean"], None)
    return curves(rows, names, "Jensen-Shannon divergence, nats")


def excess(results: dict[str, Any]) -> alt.Chart:
    """Draw by layer how much more alike a text and its translation are routed than other texts."""
    name = "excess similarity"
    rows = [
        row
        for corpus, found in numbers(results, "excess", "contrasts")
        for row in _rows(corpus, name, found["excess"], found["interval"])
    ]
    return curves(rows, [name], "excess similarity to English")


def specialization(results: dict[str, Any]) -> alt.Chart:
    """Draw by layer what an expert tells of the language."""
    names = ["languages alike", "by tokens"]
    rows = []
    for corpus, found in numbers(results, "balanced"):
        rows += _rows(corpus, names[0], found["balanced"], found["interval"])
        rows += _rows(corpus, names[1], found["weighted"], None)
    return curves(rows, names, "language specialization")


def _points(rows: list[dict[str, Any]], x: alt.X, y: alt.Y, *, log_x: bool = False) -> alt.Chart:
    """Draw languages as points with their names; rows: lang, script, x, y."""
    width, height = WIDTH * 1.3, HEIGHT * 1.5
    found = places([row["x"] for row in rows], [row["y"] for row in rows], width, height, log_x=log_x)
    named = [{**row, "place": place} for row, place in zip(rows, found, strict=True)]
    base = alt.Chart(alt.Data(values=named)).encode(x=x, y=y)
    dots = base.mark_point(filled=True, size=40, color="#0072b2").encode(shape=alt.Shape("script:N", title="script"))
    names = [
        base.mark_text(fontSize=9, color="#1c2733", **look)
        .encode(text="lang:N")
        .transform_filter(alt.datum.place == place)
        for place, look in PLACES.items()
    ]
    return alt.layer(dots, *names).properties(width=width, height=height)


def _language(lang: str) -> dict[str, str]:
    script = lang.rpartition("_")[2]
    return {"lang": lang.partition("_")[0], "script": script if script in {"Latn", "Cyrl", "Arab"} else "another"}


def isolation(results: dict[str, Any]) -> alt.Chart:
    """Draw how isolated each language is from high-resource ones against its training tokens."""
    panels = []
    for corpus, found in numbers(results, "isolation", "tokens"):
        rows = [
            {**_language(lang), "x": tokens, "y": value}
            for lang, tokens, value in zip(found["languages"], found["tokens"], found["isolation"], strict=True)
        ]
        x = alt.X(
            "x:Q",
            title="training tokens",
            scale=alt.Scale(type="log", padding=12),
            axis=alt.Axis(format="~s", values=[10_000, 20_000, 50_000, 100_000, 200_000, 500_000]),
        )
        y = alt.Y("y:Q", title="isolation from high-resource languages", scale=alt.Scale(zero=False))
        panels.append(_points(rows, x, y, log_x=True).properties(title=corpus))
    return alt.hconcat(*panels)


def performance(results: dict[str, Any]) -> alt.Chart:
    """Draw what each language costs, and gains from English, against its similarity to English."""
    panels = []
    for corpus, found in numbers(results, "similarity", "gain"):
        means = [sum(values) / len(values) for values in found["similarity"]]
        x = alt.X("x:Q", title="similarity to English", scale=alt.Scale(zero=False, padding=12))
        scores = {
            "bits a byte": [-one for one in found["performance"]],
            "gain from reading English first, nats a token": found["gain"],
        }
        for title, values in scores.items():
            rows = [
                {**_language(lang), "x": mean, "y": value}
                for lang, mean, value in zip(found["languages"], means, values, strict=True)
            ]
            y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=False, padding=12))
            panels.append(_points(rows, x, y).properties(title=corpus))
    return alt.hconcat(*panels)


FIGURES = {
    "divergence": divergence,
    "excess": excess,
    "specialization": specialization,
    "isolation": isolation,
    "performance": performance,
}

"""The figure of the README, light and dark: isolation and similarity to English by layer, of the bundled model.

Its numbers, docs/figures/readme.json, come from a store that has a trace of the bundled model on a parallel corpus:

    python -m tests.experiments.figures.readme STORE --run udhr
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import altair as alt
import click
import vl_convert

from moetrace.analytics.database.connection import connect
from moetrace.analytics.svg_fonts import with_fonts
from moetrace.store.read.reader import Store
from tests.support.paths import ROOT

FOLDER = ROOT / "docs" / "figures"
RESULTS = "readme.json"
LEFT, RIGHT, HEIGHT = 322, 260, 215
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
LATIN, OTHER = "Latin script", "other scripts"
LIGHT = {
    "background": "#ffffff",
    "ink": "#1c2733",
    "muted": "#5d6b7a",
    "line": "#d3dae1",
    "grid": "#eceff2",
    LATIN: "#0072b2",
    OTHER: "#e08a00",
}
DARK = {
    "background": "#0d1117",
    "ink": "#e8edf2",
    "muted": "#9aa7b4",
    "line": "#3a434d",
    "grid": "#20262d",
    LATIN: "#56b4e9",
    OTHER: "#f0b040",
}
ISOLATION = """select
    layer,
    avg(isolation) as mean,
    quantile_cont(isolation, 0.25) as lower_quartile,
    quantile_cont(isolation, 0.75) as upper_quartile
from jaccard
where run = ?
group by layer
order by layer"""
SIMILARITY = "select lang, layer, similarity from pivot_similarity where run = ? order by lang, layer"
DIGITS = 4


def results_of(store: Path, run: str | None) -> dict[str, Any]:
    """Return what the figure draws of a run, to DIGITS digits."""
    opened = Store(store)
    record = opened.run(run)
    with connect(opened) as connection:
        isolation, similarity = (connection.sql(query, params=[record.run]).pl() for query in (ISOLATION, SIMILARITY))
    return {
        "run": record.run,
        "languages": len(opened.languages(record.run)),
        "experts": record.num_experts,
        "top_k": record.top_k,
        "isolation": [_rounded(row) for row in isolation.to_dicts()],
        "similarity": [_rounded(row) for row in similarity.to_dicts()],
    }


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}


def chart(results: dict[str, Any], colours: dict[str, str]) -> dict[str, Any]:
    """Return the figure's Vega-Lite spec: two panels over depth, with what they say above them."""
    panels = alt.hconcat(_isolation(results, colours), _similarity(results, colours), spacing=24)
    axis = {
        "labelColor": colours["muted"],
        "titleColor": colours["muted"],
        "domainColor": colours["line"],
        "tickColor": colours["line"],
        "gridColor": colours["grid"],
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titlePadding": 8,
    }
    title = {
        "anchor": "start",
        "frame": "group",
        "fontSize": 14,
        "fontWeight": "bold",
        "color": colours["ink"],
        "subtitleColor": colours["muted"],
        "subtitleFontSize": 12,
        "subtitlePadding": 5,
        "offset": 14,
    }
    spec: dict[str, Any] = panels.properties(padding=16).to_dict()
    spec["config"] = {
        "background": colours["background"],
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "title": title,
    }
    return spec


def _depth() -> alt.X:
    return alt.X("layer:Q", title="MoE layer", axis=alt.Axis(grid=False, tickMinStep=1, format="d"))


def _isolation(results: dict[str, Any], colours: dict[str, str]) -> alt.LayerChart:
    rows = results["isolation"]
    least, most = (pick(rows, key=lambda row: row["mean"]) for pick in (min, max))
    base = alt.Chart(alt.Data(values=rows)).encode(x=_depth())
    scale = alt.Scale(domain=[0, 1])
    band = base.mark_area(color=colours[LATIN], opacity=0.18).encode(
        y=alt.Y("lower_quartile:Q", scale=scale, title="isolation: experts not shared"), y2="upper_quartile:Q"
    )
    line = base.mark_line(color=colours[LATIN], strokeWidth=2.6, point={"size": 46, "color": colours[LATIN]}).encode(
        y="mean:Q"
    )
    ends = (
        alt.Chart(alt.Data(values=[least, most]))
        .mark_text(dy=17, fontSize=12.5, fontWeight="bold", color=colours["ink"])
        .encode(x=_depth(), y="mean:Q", text=alt.Text("mean:Q", format=".2f"))
    )
    # The lowest mean stands apart from all others; which deep layer has the highest, other texts could change.
    said = f"Languages share experts most in layer {least['layer']}"
    how = f"mean and middle half of all pairs, top {results['top_k']} of {results['experts']} experts"
    return alt.layer(band, line, ends).properties(width=LEFT, height=HEIGHT, title=alt.TitleParams(said, subtitle=how))


def _similarity(results: dict[str, Any], colours: dict[str, str]) -> alt.LayerChart:
    rows = [{**row, "script": LATIN if row["lang"].endswith("_Latn") else OTHER} for row in results["similarity"]]
    last = max(row["layer"] for row in rows)
    colour = alt.Color(
        "script:N", scale=alt.Scale(domain=[LATIN, OTHER], range=[colours[LATIN], colours[OTHER]]), legend=None
    )
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=_depth(), y=alt.Y("similarity:Q", scale=alt.Scale(domain=[0.4, 1]), title="similarity of routing to English")
    )
    lines = base.mark_line(strokeWidth=1.3, opacity=0.5).encode(color=colour, detail="lang:N")
    means = base.mark_line(strokeWidth=3).encode(
        y="mean(similarity):Q",
        color=colour,
        strokeDash=alt.StrokeDash(
            "script:N", scale=alt.Scale(domain=[LATIN, OTHER], range=[[1, 0], [6, 3]]), legend=None
        ),
    )
    ends = {script: _mean(rows, script, last) for script in (LATIN, OTHER)}
    names = (
        alt.Chart(
            alt.Data(values=[{"script": script, "layer": last, "similarity": value} for script, value in ends.items()])
        )
        .mark_text(align="left", dx=9, fontSize=13, fontWeight="bold")
        .encode(x=_depth(), y="similarity:Q", text="script:N", color=colour)
    )
    nearer = all(_mean(rows, LATIN, layer) > _mean(rows, OTHER, layer) for layer in range(last + 1))
    said = "Those in Latin script stay nearer to English" if nearer else "Similarity to English, by script"
    how = f"a language a line; means in layer {last}: {ends[LATIN]:.2f} and {ends[OTHER]:.2f}"
    return alt.layer(lines, means, names).properties(
        width=RIGHT, height=HEIGHT, title=alt.TitleParams(said, subtitle=how)
    )


def _mean(rows: list[dict[str, Any]], script: str, layer: int) -> float:
    values = [row["similarity"] for row in rows if row["script"] == script and row["layer"] == layer]
    return sum(values) / len(values)


def draw(folder: Path) -> list[Path]:
    """Draw the figure of the results that a folder has, light and dark, beside them, and return the files."""
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    written = []
    for name, colours in {"readme": LIGHT, "readme-dark": DARK}.items():
        file = folder / f"{name}.svg"
        file.write_text(with_fonts(vl_convert.vegalite_to_svg(chart(results, colours))) + "\n", encoding="utf-8")
        written.append(file)
    return written


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", help="The run, where the store has several.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=FOLDER)
def main(store: Path, run: str | None, folder: Path) -> None:
    """Write what the figure draws of a run of STORE into FOLDER, and draw it."""
    text = json.dumps(results_of(store, run), indent=0, ensure_ascii=False)
    (folder / RESULTS).write_text(f"{text}\n", encoding="utf-8")
    for file in draw(folder):
        click.echo(file)


if __name__ == "__main__":
    main()

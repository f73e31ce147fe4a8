"""Single charts of the report: their size and fonts on paper, the numbers behind them, what can be chosen."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl
import pytest
import vl_convert
from PIL import Image, ImageFont

import moetrace
from moetrace.analytics import plots
from moetrace.analytics.database.connection import connect
from moetrace.analytics.plot_file import write_plot
from moetrace.analytics.print_looks import FALLING, PALE_GREYS, ROLES, luminance
from moetrace.analytics.report.style import SEQUENTIAL
from moetrace.analytics.svg_fonts import with_fonts
from moetrace.store.errors import MoetraceError
from tests.support.masks import mask_of
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, EXPERTS, TOP_K = (1, 2, 5), 8, 2
LANGUAGES = ("eng_Latn", "deu_Latn", "swh_Latn", "fin_Latn")
SCORES = pl.DataFrame({"lang": LANGUAGES, "score": [0.9, 0.7, 0.2, 0.4]})


def written(folder: Path, seed: int) -> Path:
    write_world(
        folder,
        make_world(
            seed, make_record(languages=LANGUAGES, moe_layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K), texts=20
        ),
    )
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("plots") / "store", 3)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("plots") / "tuned", 5)


@pytest.fixture(scope="module")
def mask() -> dict[str, Any]:
    return mask_of([(1, 1), (5, 2)], moe_layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K)


@pytest.mark.parametrize("name", plots.SECTIONS)
def test_every_chart_is_as_wide_as_a_column_of_a_paper(
    name: str, store: Path, mask: dict[str, Any], tmp_path: Path
) -> None:
    made = plots.plot(name, store, mask=mask, scores=SCORES)
    for columns, points in ((1, 252), (2, 516)):
        for kind in ("svg", "pdf", "png"):
            write_plot(made, tmp_path / f"plot.{kind}", columns=columns)
        svg = (tmp_path / "plot.svg").read_text()
        width, height = (float(re.search(rf'<svg[^>]* {side}="([0-9.]+)pt"', svg)[1]) for side in ("width", "height"))
        assert abs(width - points) <= 1
        assert 40 < height < 1.6 * points + 200
        assert "NaN" not in svg
        pdf = (tmp_path / "plot.pdf").read_bytes()
        page = [float(side) for side in re.search(rb"MediaBox ?\[([^]]+)\]", pdf)[1].split()]
        assert page == pytest.approx([0, 0, width, height], abs=1)
        assert b"FontFile" in pdf, "fonts are not in it"
        image = Image.open(io.BytesIO((tmp_path / "plot.png").read_bytes()))
        assert image.size[0] == pytest.approx(points * 300 / 72, abs=5)
        assert len(image.convert("L").getcolors()) > 5, "nothing is drawn"


def test_the_table_is_what_the_view_says(store: Path, tmp_path: Path) -> None:
    write_plot(plots.plot("entropy_lines", store), tmp_path / "entropy.csv")
    found = pl.read_csv(tmp_path / "entropy.csv").sort("lang", "layer")
    with connect(store) as database:
        expected = database.sql("select lang, layer, entropy_normalized from routing_entropy order by all").pl()
    assert found["lang"].to_list() == expected["lang"].to_list()
    assert found["entropy_normalized"].to_list() == expected["entropy_normalized"].to_list(), "to the last digit"


def test_a_spec_draws_the_same_chart_by_itself(store: Path, tmp_path: Path) -> None:
    made = plots.plot("isolation", store)
    write_plot(made, tmp_path / "isolation.json")
    write_plot(made, tmp_path / "isolation.svg")
    spec = json.loads((tmp_path / "isolation.json").read_text())
    assert spec["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
    again = vl_convert.vegalite_to_svg(spec)
    assert with_fonts(again).partition(">")[2] == (tmp_path / "isolation.svg").read_text().partition(">")[2]


def test_what_the_report_lets_a_reader_choose_can_be_chosen(store: Path, tmp_path: Path) -> None:
    made = plots.plot("pairs", store)
    drawn = []
    for choice in ({}, {"measure": "divergence"}, {"layers": "layer 5"}):
        write_plot(made.chosen(choice), tmp_path / "pairs.svg")
        drawn.append((tmp_path / "pairs.svg").read_text())
    assert len(set(drawn)) == 3
    assert "Jensen-Shannon divergence" in drawn[1]
    assert "layer 5" in drawn[2]
    with pytest.raises(
        MoetraceError, match=r"measure=nothing cannot be chosen; there is measure = jaccard \| divergence"
    ):
        made.chosen({"measure": "nothing"})
    with pytest.raises(MoetraceError, match="layers=7 cannot be chosen; there is nothing to choose"):
        plots.plot("isolation", store).chosen({"layers": "7"})


def test_a_language_can_be_named(store: Path) -> None:
    for lang in ("deu_Latn", "swh_Latn"):
        (parameter,) = (item for item in plots.plot("specificity", store, lang=lang).spec["params"] if "bind" in item)
        assert parameter["value"] == lang
    with pytest.raises(MoetraceError, match="xho_Latn"):
        plots.plot("specificity", store, lang="xho_Latn")


@pytest.mark.parametrize("name", ["pivot_lines", "pivot_excess", "entropy_lines"])
def test_lines_are_told_apart_without_colour(name: str, store: Path, tmp_path: Path) -> None:
    made = plots.plot(name, store)
    write_plot(made, tmp_path / "lines.svg")
    svg = (tmp_path / "lines.svg").read_text()
    lines = re.findall(r'<path[^>]* stroke="(#[0-9a-f]+)"[^>]* stroke-width="2"[^>]*?>', svg)
    patterns = {}
    for tag in re.findall(r'<(?:path|line)[^>]*stroke-width="(?:1.8|2)"[^>]*>', svg):
        if not (colour := re.search(r'stroke="(#[0-9a-f]+)"', tag)):
            continue
        dash = re.search(r'stroke-dasharray="([^"]*)"', tag)
        patterns.setdefault(colour[1], []).append(dash[1] if dash else "")
    languages = made.table["lang"].n_unique()
    assert len(set(lines)) == languages, "each language has a colour here"
    assert all(len(found) == 2 for found in patterns.values()), "a line, and a piece of it before its name"
    assert all(len(set(found)) == 1 for found in patterns.values()), "the piece looks like its line"
    assert len({found[0] for found in patterns.values()}) == languages


def test_maps_grow_darker_with_what_they_show() -> None:
    for colours in (SEQUENTIAL, FALLING, PALE_GREYS):
        lights = [luminance(colour) for colour in colours]
        assert all(light > 1.08 * darker for light, darker in itertools.pairwise(lights)), colours
    # What a mask selects, and what lies behind it at its darkest: a step of 1.5 in contrast between any two.
    contrasts = sorted(luminance(colour) + 0.05 for colour in (*ROLES.values(), PALE_GREYS[-1]))
    assert all(light > 1.5 * dark for dark, light in itertools.pairwise(contrasts))


def test_luminance_is_that_of_the_standard() -> None:
    """The examples of WCAG 2: white on black has the contrast 21, #777 on white 4.48."""
    assert (luminance("#fff") + 0.05) / (luminance("#000000") + 0.05) == pytest.approx(21)
    assert (luminance("#ffffff") + 0.05) / (luminance("#777") + 0.05) == pytest.approx(4.48, abs=0.005)


def test_a_map_in_grey_has_the_order_of_its_numbers(store: Path, tmp_path: Path) -> None:
    """Cells of the specificity map, read from the picture where Vega says that they are."""
    made = plots.plot("specificity", store)
    lang = made.spec["params"][0]["value"]
    write_plot(made, tmp_path / "map.svg", columns=2)
    svg = (tmp_path / "map.svg").read_text()
    cells = re.findall(r'aria-label="([^"]*specificity: ([0-9.]+)[^"]*)"[^>]*fill="([^"]+)"', svg)
    assert len(cells) == len(LAYERS) * EXPERTS
    assert all(lang in label for label, _, _ in cells)
    by_number = sorted((float(number), _grey(fill)) for _, number, fill in cells)
    greys = [grey for _, grey in by_number]
    assert greys == sorted(greys, reverse=True)
    assert greys[0] > greys[-1] + 0.2


def _grey(fill: str) -> float:
    parts = [int(part) for part in re.findall(r"\d+", fill)] if fill.startswith("rgb") else None
    return luminance("#" + "".join(f"{part:02x}" for part in parts) if parts else fill)


def test_on_a_dark_theme_everything_can_be_seen(store: Path, tmp_path: Path) -> None:
    for name in ("isolation", "entropy_lines", "pairs"):
        write_plot(plots.plot(name, store), tmp_path / "dark.svg", theme="dark")
        svg = (tmp_path / "dark.svg").read_text()
        assert 'fill="#333"' in svg
        inks = re.findall(r'<text[^>]* fill="(#[0-9a-f]+)"', svg)
        if name != "pairs":  # its numbers stand on light cells
            inks += re.findall(r'stroke="(#[0-9a-f]+)"[^>]*stroke-width="(?:1.8|2|2.4)"', svg)
            assert min((luminance(ink) + 0.05) / (luminance("#333") + 0.05) for ink in inks) > 3
        assert "Segoe" not in svg


def test_an_svg_carries_the_letters_that_it_shows(store: Path, tmp_path: Path) -> None:
    write_plot(plots.plot("entropy_lines", store), tmp_path / "fonts.svg")
    svg = (tmp_path / "fonts.svg").read_text()
    fonts = {
        name: ImageFont.truetype(io.BytesIO(base64.b64decode(data)), 100)
        for name, data in re.findall(r"font-family:(moetrace-\d);.*?base64,([^)]*)\)", svg)
    }
    assert fonts
    for attributes, text in re.findall(r"<text([^>]*)>(.*?)</text>", svg):
        font = fonts[re.search(r'font-family="(moetrace-\d), ', attributes)[1]]
        assert font.getname()[0] == "Liberation Sans"
        for letter in set(text):
            # The glyph of a letter that a font lacks is its first one, which a letter of no font has as well.
            assert letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask("\u4e00")), letter
    title = fonts[re.search(r'font-family="(moetrace-\d), [^>]*>MoE layer<', svg)[1]]
    # Arial's own advance widths, of 2048 to the em: l 455, a 1139, y 1024, e 1139, r 682.
    assert title.getlength("layer") == pytest.approx(100 * (455 + 1139 + 1024 + 1139 + 682) / 2048, abs=1)


def test_letters_that_join_and_marks_of_xml_stay_as_they_are() -> None:
    simple = '<text font-family="Liberation Sans" font-size="9">a &lt;&amp;&gt; b</text>'
    found = with_fonts(f'<svg xmlns="x">{simple}<text>\u0915\u094d\u0937</text></svg>')
    assert simple.replace('"Lib', '"moetrace-0, Lib') in found
    assert "<text>\u0915\u094d\u0937</text>" in found
    assert with_fonts("<svg></svg>") == "<svg></svg>"


@pytest.mark.parametrize("name", plots.__all__)
def test_python_gets_a_chart_to_change(name: str, store: Path, tuned: Path, mask: dict[str, Any]) -> None:
    other: dict[str, tuple[Any, ...]] = {
        "mask": (store, mask),
        "score": (store, SCORES),
        "comparison": ("entropy", (store, None), (tuned, None)),
    }
    arguments = next((found for start, found in other.items() if name.startswith(start)), (store,))
    chart = getattr(moetrace.plots, name)(*arguments)
    assert isinstance(chart, alt.Chart | alt.LayerChart)
    changed = chart.properties(title="Mine", width=300).to_dict()
    assert "Mine" in json.dumps(changed["title"])
    assert any(changed["datasets"].values())
    assert "Mine" in vl_convert.vegalite_to_svg(changed)


def test_bad_input_is_told(store: Path, tmp_path: Path) -> None:
    made = plots.plot("isolation", store)
    with pytest.raises(MoetraceError, match="no plot is called nothing; there are isolation, "):
        plots.plot("nothing", store)
    with pytest.raises(MoetraceError, match=r"[.]txt: name a file that ends in [.]svg, "):
        write_plot(made, tmp_path / "plot.txt")
    with pytest.raises(MoetraceError, match="no theme is called mine; there are moetrace, "):
        write_plot(made, tmp_path / "plot.svg", theme="mine")
    with pytest.raises(MoetraceError, match="of a mask"):
        plots.plot("mask_grid", store)
    alone = tmp_path / "alone"
    write_world(alone, make_world(4, make_record(languages=("eng_Latn",)), texts=4))
    with pytest.raises(MoetraceError, match="isolation: This compares languages"):
        plots.plot("isolation", alone)
    assert not list(tmp_path.glob("plot*"))
    write_plot(made, tmp_path / "plot.svg", theme="dark")
    assert "#333" in (tmp_path / "plot.svg").read_text()

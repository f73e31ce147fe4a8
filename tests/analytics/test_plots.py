"""Single charts of the report: their size and fonts on paper, the numbers behind them, what can be chosen."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl
import pytest
import vl_convert
from PIL import Image

import moetrace
from moetrace.analytics import plots
from moetrace.analytics.database.connection import connect
from moetrace.store.errors import MoetraceError
from tests.support.masks import mask_of
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, EXPERTS, TOP_K = (1, 2, 5), 8, 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots") / "store"
    write_world(folder, make_world(3, make_record(moe_layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K), texts=20))
    return folder


@pytest.fixture(scope="module")
def mask() -> dict[str, Any]:
    return mask_of([(1, 1), (5, 2)], moe_layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("name", plots.SECTIONS)
def test_every_chart_is_as_wide_as_a_column_of_a_paper(
    name: str, columns: int, store: Path, mask: dict[str, Any], tmp_path: Path
) -> None:
    made, points = plots.plot(name, store, mask=mask), {1: 252, 2: 516}[columns]
    for kind in ("svg", "pdf", "png"):
        plots.write_plot(made, tmp_path / f"plot.{kind}", columns=columns)
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
    plots.write_plot(plots.plot("entropy_lines", store), tmp_path / "entropy.csv")
    found = pl.read_csv(tmp_path / "entropy.csv").sort("lang", "layer")
    with connect(store) as database:
        expected = database.sql("select lang, layer, entropy_normalized from routing_entropy order by all").pl()
    assert found["lang"].to_list() == expected["lang"].to_list()
    assert found["entropy_normalized"].to_list() == expected["entropy_normalized"].to_list(), "to the last digit"


def test_a_spec_draws_the_same_chart_by_itself(store: Path, tmp_path: Path) -> None:
    made = plots.plot("isolation", store)
    plots.write_plot(made, tmp_path / "isolation.json")
    plots.write_plot(made, tmp_path / "isolation.svg")
    spec = json.loads((tmp_path / "isolation.json").read_text())
    assert spec["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
    again = vl_convert.vegalite_to_svg(spec)
    assert again.partition(">")[2] == (tmp_path / "isolation.svg").read_text().partition(">")[2]


def test_what_the_report_lets_a_reader_choose_can_be_chosen(store: Path, tmp_path: Path) -> None:
    made = plots.plot("pairs", store)
    drawn = []
    for choice in ({}, {"measure": "divergence"}, {"layers": "layer 5"}):
        plots.write_plot(made.chosen(choice), tmp_path / "pairs.svg")
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


@pytest.mark.parametrize("name", plots.__all__)
def test_python_gets_a_chart_to_change(name: str, store: Path, mask: dict[str, Any]) -> None:
    arguments = (store, mask) if name.startswith("mask") else (store,)
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
        plots.write_plot(made, tmp_path / "plot.txt")
    with pytest.raises(MoetraceError, match="no theme is called mine; there are moetrace, "):
        plots.write_plot(made, tmp_path / "plot.svg", theme="mine")
    with pytest.raises(MoetraceError, match="of a mask"):
        plots.plot("mask_grid", store)
    alone = tmp_path / "alone"
    write_world(alone, make_world(4, make_record(languages=("eng_Latn",)), texts=4))
    with pytest.raises(MoetraceError, match="isolation: This compares languages"):
        plots.plot("isolation", alone)
    assert not list(tmp_path.glob("plot*"))
    plots.write_plot(made, tmp_path / "plot.svg", theme="dark")
    assert "#333" in (tmp_path / "plot.svg").read_text()

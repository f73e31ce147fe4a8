"""Lines of languages as marks: their intervals, the noise floor, groups and the places of their labels."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import polars as pl
import pytest
import vl_convert

from moetrace.analytics.report.following import FADED, following
from moetrace.analytics.report.layer_charts import MOST_LINES, Value, language_heat, language_lines
from moetrace.analytics.report.names import language_names
from moetrace.analytics.report.style import SERIES

LAYERS = range(6)
BANDED = Value("share", "share, 0 to 1", low="least", high="largest")


def frame_of(languages: list[str]) -> pl.DataFrame:
    rng = np.random.default_rng(2)
    rows = [(lang, layer, value) for lang in languages for layer, value in enumerate(rng.random(len(LAYERS)))]
    frame = pl.DataFrame(rows, schema=["lang", "layer", "share"], orient="row")
    return frame.with_columns(least=pl.col("share") - 0.125, largest=pl.col("share") + 0.0625)


def drawn(languages: list[str], value: Value = BANDED, coloured: int = 3, **options: Any) -> str:
    """Return the SVG of the lines of made-up values."""
    frame = frame_of(languages)
    chosen = options.pop("params", {})
    spec = language_lines("shares", value, frame, LAYERS, languages[:coloured], **options).to_dict()
    spec |= {"width": 600, "params": [{**each, **chosen.get(each["name"], {})} for each in spec["params"]]}
    zones = [{"zone": "all", "ordinal": 0, "shade": 0, "start": -0.5, "end": 5.5, "middle": 2.5}]
    floor = [{"layer": layer, "low": 0.1, "high": 0.2} for layer in LAYERS]
    spec["datasets"] = {"shares": frame.to_dicts(), "zones": zones, "floor": floor}
    return str(vl_convert.vegalite_to_svg(spec))


def count_areas(svg: str, opacity: str) -> int:
    return len(re.findall(rf'<path[^>]*(?:fill-)?opacity="{opacity}"[^>]*/?>', svg))


def test_chosen_lines_have_their_interval_behind_them_where_they_are_few() -> None:
    codes = [f"l{number}" for number in range(7)]
    assert count_areas(drawn(codes, coloured=3), "0.18") == 3
    assert count_areas(drawn(codes, coloured=4), "0.18") == 4
    assert count_areas(drawn(codes, coloured=5), "0.18") == 0
    assert count_areas(drawn(codes, Value("share", "share")), "0.18") == 0
    picked = {"picked": {"value": True}, "chosen": {"value": codes[:6]}}
    assert count_areas(drawn(codes, params=picked), "0.18") == 6, "a reader who asks for more gets them"


def test_a_tooltip_says_the_interval() -> None:
    svg = drawn(["l0"], coloured=1)
    value = frame_of(["l0"])["share"][0]
    labels = str(language_lines("shares", BANDED, frame_of(["l0"]), LAYERS, ["l0"]).to_dict())
    assert "' to ' + format" in labels
    assert svg.count("<svg") == 1
    assert 0 < value < 1


def test_the_noise_floor_is_a_band_that_says_what_it_is() -> None:
    codes = ["l0", "l1"]
    assert "noise floor" in drawn(codes, floor="floor")
    assert count_areas(drawn(codes, floor="floor"), "0.45") == 1
    assert "noise floor" not in drawn(codes)


def test_many_languages_are_a_line_a_script_with_the_asked_for_over_them() -> None:
    codes = [
        f"{lang}_{script}"
        for script in ("Latn", "Cyrl")
        for lang in [
            "deu",
            "fra",
            "swh",
            "spa",
            "ita",
            "por",
            "nld",
            "fin",
            "est",
            "hun",
            "tur",
            "vie",
            "ind",
            "tgl",
            "yor",
            "zul",
            "xho",
            "hau",
            "ibo",
            "pol",
            "ces",
        ]
    ]
    assert len(codes) > MOST_LINES
    svg = drawn(codes)
    assert [text in svg for text in ("Latin (21)", "Cyrillic (21)", "swh_Latn")] == [True, True, False]
    assert count_areas(svg, "0.08") == 2
    over = drawn(codes, over=["swh_Latn"])
    assert "swh_Latn" in over
    assert f'stroke="{SERIES[0]}"' in over
    assert f'stroke="{SERIES[1]}"' not in over, "groups are grey where a language is chosen"


@pytest.mark.parametrize("count", [2, 8, 20])
def test_labels_of_lines_do_not_touch(count: int) -> None:
    svg = drawn([f"l{number:02}" for number in range(count)])
    heights = sorted(
        float(height) for height, name in re.findall(r'translate\([\d.]+,(-?[\d.]+)\)"[^>]*>(l\d\d)</text>', svg)
    )
    assert len(heights) == count
    assert all(second - first > 12.9 for first, second in itertools.pairwise(heights))


def test_maps_and_bars_follow_and_say_languages_in_words() -> None:
    codes = ["swh_Latn", "zho_Hans", "l0"]
    spec = language_heat("shares", BANDED, codes).to_dict()
    followed = following(spec, language_names(codes))
    assert spec == language_heat("shares", BANDED, codes).to_dict(), "what it is given stays"
    frame = frame_of(codes)

    def svg(chosen: list[str]) -> str:
        params = [{**each, "value": chosen} if each["name"] == "chosen" else each for each in followed["params"]]
        made = {**followed, "params": params, "width": 600, "datasets": {"shares": frame.to_dicts()}}
        return str(vl_convert.vegalite_to_svg(made))

    assert "zho_Hans · Chinese (Simplified)" in svg([])
    assert ">l0<" in svg([])
    assert svg([]).count(f'opacity="{FADED}"') == 0
    assert svg(["swh_Latn"]).count(f'opacity="{FADED}"') == 2 * len(LAYERS)


def test_a_chart_without_languages_is_left_alone() -> None:
    spec = {"mark": "bar", "encoding": {"x": {"field": "layer"}, "y": {"field": "share"}}}
    assert following(spec, language_names(["swh_Latn"])) == spec

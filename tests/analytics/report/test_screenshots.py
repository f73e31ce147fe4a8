"""What the page looks like in its main states, against stored pictures; a chart that is missing is seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.browser import BROWSER, visited
from tests.support.pictures import MOST, compare, difference, sheet

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page

    from tests.support.browser import Visit

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")

STORED = Path(__file__).parent / "screenshots"
CHARTS = ("isolation", "pivot_lines", "pairs", "specificity", "entropy_lines", "mask_grid", "mask_coverage")
STATES = {
    "light": "#theme=light",
    "dark": "#theme=dark",
    "chosen": "#theme=light&langs=swh_Latn,hin_Deva&expert=2.5",
    "grouped": "#theme=light&group=script&pairs.measure=divergence",
}


def pictures_of(opened: Visit, state: str) -> Image.Image:
    page = opened.drawn().page
    page.wait_for_timeout(300)
    panel = [page.locator("#expert").screenshot()] if state == "chosen" else []
    page.evaluate("document.getElementById('expert').style.display = 'none'")
    page.evaluate("document.getElementById('bar').style.position = 'static'")
    return sheet([*panel, *(page.locator(f"#{chart}-chart").screenshot() for chart in CHARTS)])


@pytest.mark.parametrize("state", STATES)
def test_the_page_looks_as_it_did(browser: Browser, few: Path, state: str) -> None:
    with visited(browser, few / "report.html", STATES[state]) as opened:
        apart = compare(pictures_of(opened, state), STORED / f"{state}.png")
        assert apart < MOST, f"{apart:.1f} apart"


def hide_a_chart(page: Page) -> None:
    page.evaluate("document.querySelector('#entropy_lines-chart svg').style.visibility = 'hidden'")


def change_the_colours(page: Page) -> None:
    page.evaluate("document.querySelector('#mask_grid-chart canvas').style.filter = 'hue-rotate(120deg)'")


def empty_a_map(page: Page) -> None:
    page.evaluate(
        "() => { const canvas = document.querySelector('#pairs-chart canvas');"
        " canvas.getContext('2d').clearRect(0, 0, 9999, 9999) }"
    )


@pytest.mark.parametrize("damage", [hide_a_chart, change_the_colours, empty_a_map])
def test_what_is_broken_is_seen(browser: Browser, few: Path, damage: Callable[[Page], None]) -> None:
    with visited(browser, few / "report.html", STATES["light"]) as opened:
        opened.drawn().page.wait_for_timeout(300)
        damage(opened.page)
        apart = difference(pictures_of(opened, "light"), Image.open(STORED / "light.png").convert("RGB"))
        assert apart > MOST, f"{apart:.1f} apart"

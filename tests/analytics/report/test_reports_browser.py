"""The reports that `make reports` built, in a real browser; what they look like is put beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import BROWSER, axe_violations, expect_count, visited

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = os.environ.get("MOETRACE_REPORTS")
BUILT = sorted(Path(FOLDER).glob("*.html")) if FOLDER else []
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium"),
    pytest.mark.skipif(FOLDER is None, reason="no reports: make reports builds them"),
]


def test_there_are_reports() -> None:
    assert BUILT


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("report", BUILT, ids=lambda report: report.stem)
def test_a_report_is_drawn_asks_nobody_and_is_accessible(browser: Browser, report: Path, theme: str) -> None:
    with visited(browser, report, f"#theme={theme}") as opened:
        page = opened.drawn().page
        page.wait_for_timeout(300)
        page.screenshot(path=report.with_suffix(f".{theme}.png"), full_page=True)
        assert axe_violations(page) == []
        page.locator("#language").fill(" ")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        expect_count(page.locator("#chips .chip"), 1)
        page.keyboard.press("Escape")
        if page.locator("#expert-number").count():
            first = page.locator("#expert-number").get_attribute("placeholder") or ""
            page.locator("#expert-number").fill(first)
            page.locator("#expert-number").press("Enter")
            assert page.locator("#expert h3").inner_text() == f"Expert {first}"
        assert opened.complaints == opened.requests == []
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.pdf(path=report.with_suffix(f".{theme}.pdf"), format="A4", print_background=True)

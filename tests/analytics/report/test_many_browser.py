"""The report of 200 languages, 48 layers and 128 experts in a real browser: small, quick, and lines that are groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.browser import BROWSER, expect_count, visited
from tests.support.many_languages import many_codes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Browser, CDPSession

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")

MOST_BYTES = 15_000_000
MOST_SECONDS = 6.0  # of the page's own processor time; 3 on a machine that does nothing else


def test_it_is_small(many: Path) -> None:
    assert (many / "report.html").stat().st_size < MOST_BYTES


def test_it_is_drawn_and_answers_in_little_time(
    browser: Browser, many: Path, record_property: Callable[[str, object], None]
) -> None:
    with visited(browser, many / "report.html") as opened:
        page = opened.drawn().page
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = _busy(tools)
        page.reload()
        page.wait_for_selector("body[data-ready]", state="attached")
        ready = _busy(tools) - before
        opened.drawn()
        drawn = _busy(tools) - before
        assert 0.05 < ready <= drawn < MOST_SECONDS
        record_property("processor seconds until ready, until all is drawn", (ready, drawn))
        marks = page.evaluate("performance.getEntriesByType('mark').map(({ name, startTime }) => [name, startTime])")
        record_property("milliseconds by the clock", marks)
        assert [name for name, _ in marks] == ["ready", "drawn"]
        before = _busy(tools)
        page.locator("#language").fill("swahili")
        page.locator("#language").press("Enter")
        page.wait_for_timeout(1500)
        chosen = _busy(tools) - before
        record_property("processor seconds of choosing a language", chosen)
        assert chosen < MOST_SECONDS / 2
        assert opened.complaints == opened.requests == []


def test_lines_are_groups_until_a_language_is_chosen(browser: Browser, many: Path) -> None:
    with visited(browser, many / "report.html") as opened:
        page = opened.drawn().page
        assert page.locator("#group").input_value() == "script"
        assert page.locator("#languages li").count() == len(many_codes()) == 200
        groups = opened.seen("entropy_lines")
        page.locator("#language").fill("hausa")
        page.locator("#language").press("Enter")
        chosen = opened.settled("entropy_lines", groups)
        page.locator("#group").select_option("each")
        each = opened.settled("entropy_lines", chosen)
        page.locator("#group").select_option("cluster")
        assert opened.settled("entropy_lines", each) not in {groups, chosen}
        page.locator("#expert-number").fill("22.96")
        page.locator("#expert-number").press("Enter")
        expect_count(page.locator("#expert tbody tr"), 10)
        assert opened.complaints == []


def _busy(tools: CDPSession) -> float:
    metrics = tools.send("Performance.getMetrics")["metrics"]
    return next(float(each["value"]) for each in metrics if each["name"] == "TaskDuration")

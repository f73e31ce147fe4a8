"""The page in a real browser: what a reader chooses, and that every chart follows."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from moetrace.analytics.database.connection import connect
from tests.support.browser import BROWSER, Visit, axe_violations, expect_count, visited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")

LINES = ("pivot_excess", "pivot_lines", "entropy_lines")
OF_LANGUAGES = (*LINES, "pivot_heat", "pairs", "entropy_heat", "mask_coverage")
FIRST_COLOURS = ("#0072b2", "#d55e00")
COPIED = "navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve() }"
NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined })"


@pytest.fixture
def visit(browser: Browser, few: Path) -> Iterator[Visit]:
    with visited(browser, few / "report.html", script=COPIED) as opened:
        yield opened.drawn()
        assert opened.complaints == []
        assert opened.requests == []


def choose(visit: Visit, words: str) -> None:
    visit.page.locator("#language").fill(words)
    visit.page.locator("#language").press("Enter")


def chips(visit: Visit) -> list[str]:
    return [text.partition("\n")[0] for text in visit.page.locator("#chips .chip").all_inner_texts()]


def line_colours(visit: Visit, chart: str) -> dict[str, str]:
    """Return the colour of each label at the end of a line."""
    script = """name => [...document.querySelectorAll(`#${name}-chart svg text`)]
        .filter(text => text.textContent.includes("·")).map(text => [text.textContent, text.getAttribute("fill")])"""
    return dict(visit.page.evaluate(script, chart))


def test_every_chart_follows_one_choice_of_languages(visit: Visit) -> None:
    before = {chart: visit.seen(chart) for chart in OF_LANGUAGES}
    choose(visit, "swah")
    choose(visit, "zho")
    assert chips(visit) == ["Swahili", "Chinese (Simplified)"]
    after = {chart: visit.settled(chart, before[chart]) for chart in OF_LANGUAGES}
    for chart in LINES:
        visit.page.wait_for_timeout(100)
        colours = line_colours(visit, chart)
        assert [colours["swh_Latn · Swahili"], colours["zho_Hans · Chinese (Simplified)"]] == list(FIRST_COLOURS)
        assert len({colour for name, colour in colours.items() if name[:3] not in {"swh", "zho"}}) == 1, "others grey"
        for colour in FIRST_COLOURS:
            assert f"{colour}," in visit.seen(chart)
    assert visit.page.locator("#specificity-controls select").input_value() == "zho_Hans"
    visit.page.locator("#clear").click()
    assert {chart: visit.settled(chart, after[chart]) for chart in OF_LANGUAGES} == before


def test_languages_are_found_by_code_and_by_name(visit: Visit) -> None:
    field, shown = visit.page.locator("#language"), visit.page.locator("#languages li:visible")
    field.click()
    expect_count(shown, 9)
    for words, found in (
        ("chin", ["zho_Hans"]),
        ("_latn", ["eng_Latn", "deu_Latn", "swh_Latn", "spa_Latn"]),
        ("q", []),
    ):
        field.fill(words)
        assert {item.get_attribute("data-code") for item in shown.all()} == set(found)
    field.fill("ARAB")
    shown.locator("input").check()
    assert chips(visit) == ["Standard Arabic"]
    visit.page.locator("#chips .chip").click()
    assert chips(visit) == []


def test_selectors_change_their_chart_alone(visit: Visit) -> None:
    before = {chart: visit.seen(chart) for chart in ("pairs", "specificity", "pivot_heat")}
    visit.page.locator("#pairs-controls select").select_option("layer 5")
    layer = visit.settled("pairs", before["pairs"])
    visit.page.locator("#pairs-controls input[value=divergence]").check()
    visit.settled("pairs", layer)
    visit.page.locator("#specificity-controls select").select_option("hin_Deva")
    visit.settled("specificity", before["specificity"])
    assert visit.seen("pivot_heat") == before["pivot_heat"]
    assert "pairs.layers=layer+5" in visit.page.url
    assert "pairs.measure=divergence" in visit.page.url
    assert "specificity.language=hin_Deva" in visit.page.url


def test_lines_are_grouped_when_asked(visit: Visit) -> None:
    before = visit.seen("entropy_lines")
    visit.page.locator("#group").select_option("script")
    script = visit.settled("entropy_lines", before)
    assert "Latin (4)" in script
    assert "other scripts (5)" in script
    assert "· German" not in script
    visit.page.locator("#group").select_option("cluster")
    assert " alike" in visit.settled("entropy_lines", script)
    choose(visit, "german")
    visit.page.wait_for_function("document.querySelector('#entropy_lines-chart').textContent.includes('· German')")


def test_pointing_at_a_line_says_whose_it_is(visit: Visit) -> None:
    chart = visit.page.locator("#entropy_lines-chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    tip = visit.page.locator("#vg-tooltip-element.visible")
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 150)
    visit.page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + 152)
    tip.wait_for()
    text = tip.inner_text()
    assert "layer" in text
    assert "·" in text, "the language in words"


def test_a_click_on_an_expert_tells_about_it(visit: Visit, few: Path) -> None:
    canvas = visit.page.locator("#mask_grid-chart canvas")
    canvas.scroll_into_view_if_needed()
    before = visit.seen("specificity")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] * 0.4, "y": box["height"] * 0.6})
    panel = visit.page.locator("#expert")
    panel.wait_for()
    visit.settled("specificity", before)  # framed there as well
    layer, expert = map(int, panel.locator("h3").inner_text().removeprefix("Expert ").split("."))
    told = dict(zip(panel.locator("dt").all_inner_texts(), panel.locator("dd").all_inner_texts(), strict=True))
    with connect(few / "store") as database:
        used = database.sql("select layer, expert, avg(frequency) from activation group by all").fetchall()
        rows = database.sql(
            f"select lang, specificity from specificity where layer = {layer} and expert = {expert} "
            "order by specificity desc, lang limit 5"
        ).fetchall()
    own = next(value for *at, value in used if at == [layer, expert])
    assert told["Rank by use"] == f"{1 + sum(value > own for *_, value in used)} of {len(used)}"
    assert told["Used for"] == f"{own:.0%} of the average language's tokens" or own < 0.1
    mask = {(item["layer"], item["expert"]): item for item in json.loads((few / "mask.json").read_text())["experts"]}
    chosen = mask.get((layer, expert))
    assert told["In the mask"].startswith(chosen["role"]) if chosen else told["In the mask"] == "no"
    listed = panel.locator("table").first.locator("tbody button").all_inner_texts()
    assert [name.split(" ")[0] for name in listed] == [lang for lang, value in rows if value > 0]
    panel.locator("tbody button").first.click()
    assert len(chips(visit)) == 1
    visit.page.keyboard.press("Escape")
    assert panel.is_hidden()


def test_an_expert_is_found_by_its_number_and_a_wrong_number_is_told(visit: Visit) -> None:
    field = visit.page.locator("#expert-number")
    for asked in ("4.2", "1.16", "x", "1.1.1"):
        field.fill(asked)
        field.press("Enter")
        assert "layer.expert, such as 1.0" in visit.page.locator("#expert-error").inner_text()
        assert visit.page.locator("#expert").is_hidden()
    field.fill("5 3")
    field.press("Enter")
    assert visit.page.locator("#expert h3").inner_text() == "Expert 5.3"
    visit.page.get_by_role("button", name="The next expert").click()
    assert visit.page.locator("#expert h3").inner_text() == "Expert 5.4"


def test_a_link_restores_what_was_chosen(visit: Visit, browser: Browser, few: Path) -> None:
    before = {chart: visit.seen(chart) for chart in (*OF_LANGUAGES, "specificity")}
    choose(visit, "tamil")
    choose(visit, "german")
    visit.page.locator("#pairs-controls select").select_option("layer 2")
    visit.page.locator("#group").select_option("script")
    after = {chart: visit.settled(chart, before[chart]) for chart in OF_LANGUAGES}
    visit.page.locator("#theme").click()
    for chart, light in after.items():
        visit.settled(chart, light)
    visit.page.locator("#expert-number").fill("2.7")
    visit.page.locator("#expert-number").press("Enter")
    visit.drawn().page.wait_for_timeout(200)
    link = visit.page.url
    fragment = link[link.index("#") :]
    assert "langs=tam_Taml,deu_Latn" in fragment
    with visited(browser, few / "report.html", fragment) as again:
        again.drawn().page.wait_for_timeout(200)
        assert chips(again) == ["Tamil", "German"]
        assert again.page.locator("#expert h3").inner_text() == "Expert 2.7"
        assert again.page.locator("html").get_attribute("data-theme") == "dark"
        for chart in before:
            assert again.seen(chart) == visit.seen(chart), chart
        again.page.evaluate("location.hash = '#langs=eng_Latn&theme=light'")  # as a person edits it
        again.page.wait_for_function("document.querySelector('#chips').textContent.includes('English')")
        assert chips(again) == ["English"]
        assert again.page.locator("#expert").is_hidden()


@pytest.mark.parametrize(
    "fragment",
    [
        "#langs=%3Cimg%20src%3Dx%20onerror%3Ddocument.title%3D1%3E,__proto__,constructor&expert=__proto__",
        "#theme=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&group=constructor&at=javascript:alert(1)&__proto__[x]=1",
        "#pairs.measure=datum.lang;alert(1)&pairs.layers=%00&pairs.__proto__=1&specificity.language=nobody",
        "#expert=1e0.1&langs=" + "deu_Latn%00," * 50,
        "#langs=eng_Latn&expert=1.1&" + "a" * 30_000,
        "#%E0%A4%A&langs=%E0%A4%A",
    ],
)
def test_a_hostile_fragment_chooses_nothing(browser: Browser, few: Path, fragment: str) -> None:
    with visited(browser, few / "report.html", fragment) as opened:
        title = opened.page.title()
        opened.drawn()
        assert chips(opened) == []
        assert opened.page.locator("#expert").is_hidden()
        assert opened.page.locator("html").get_attribute("data-theme") == "light"
        assert opened.page.locator("#pairs-controls select").input_value() == "all layers"
        assert opened.page.title() == title
        assert opened.page.evaluate("({}).x") is None
        assert opened.complaints == opened.requests == []


def test_dark_is_what_the_system_or_the_reader_wants(browser: Browser, few: Path) -> None:
    with visited(browser, few / "report.html", color_scheme="dark") as opened:
        page = opened.drawn().page
        dark = opened.seen("isolation")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 22, 28)"
        assert "#4fa9e2" in dark
        page.locator("#theme").click()
        light = opened.settled("isolation", dark)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
        assert "#0072b2" in light
        assert "#4fa9e2" not in light
        assert "theme=light" in page.url
        assert opened.drawn().complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_printed_page_is_white_and_cuts_no_chart(browser: Browser, few: Path, tmp_path: Path, theme: str) -> None:
    with visited(browser, few / "report.html", f"#theme={theme}&expert=1.1") as opened:
        page = opened.drawn().page
        page.set_viewport_size({"width": 688, "height": 1017})  # A4 without its margins
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        for hidden in ("#bar", "nav", "#expert", ".tools", ".controls"):
            assert page.locator(hidden).first.is_hidden(), hidden
        for figure in page.locator("figure").all():
            assert figure.evaluate("each => getComputedStyle(each).breakInside") == "avoid"
            box = figure.bounding_box()
            assert box is not None
            assert box["height"] < 1017
            assert box["x"] + box["width"] <= 690
            drawing = figure.locator(".chart svg, .chart canvas").bounding_box()
            assert drawing is not None
            assert drawing["width"] <= 690
        assert page.locator("section h2").count() == page.locator("section h2:visible").count() == 10
        page.pdf(path=tmp_path / "page.pdf", format="A4", print_background=True)
        assert (tmp_path / "page.pdf").stat().st_size > 50_000


def test_sql_and_numbers_are_copied_as_they_are(visit: Visit, few: Path) -> None:
    page = visit.page
    page.get_by_role("button", name="Copy SQL: Normalised routing entropy by layer").click()
    query = page.evaluate("window.copied")
    page.get_by_role("button", name="Copy CSV: Normalised routing entropy by layer").click()
    rows = list(csv.DictReader(io.StringIO(page.evaluate("window.copied"))))
    with connect(few / "store") as database:
        asked = database.sql(query).pl()
    told = {(row["lang"], int(row["layer"])): float(row["entropy_normalized"]) for row in rows}
    expected = {(row["lang"], row["layer"]): row["entropy_normalized"] for row in asked.to_dicts()}
    assert told == pytest.approx(expected, rel=1e-4)
    for figure in page.locator("figure").all():
        assert figure.get_by_role("button", name="Copy SQL").count() == 1
        assert figure.get_by_role("button", name="Copy CSV").count() == 1


def test_copying_works_without_a_clipboard_for_files(browser: Browser, few: Path) -> None:
    with visited(browser, few / "report.html", script=NO_CLIPBOARD) as opened:
        page = opened.drawn().page
        button = page.get_by_role("button", name="Copy SQL: Isolation")
        button.click()
        assert button.inner_text() == "Copied"
        page.locator("#language").click()
        page.keyboard.press("Control+V")
        assert page.locator("#language").input_value().startswith("select     layer,     avg(isolation)")
        assert opened.complaints == []


def test_figures_are_saved(visit: Visit) -> None:
    figure = visit.page.locator("figure", has=visit.page.locator("#entropy_lines-chart"))
    for name, begins in (("CSV", b"lang,layer,"), ("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with visit.page.expect_download() as saved:
            figure.get_by_role("button", name=f"{name}: download").click()
        assert saved.value.suggested_filename == f"entropy_lines.{name.lower()}"
        with open(saved.value.path(), "rb") as file:  # noqa: PTH123
            assert file.read(20).startswith(begins)


def test_numbers_stand_behind_each_chart_as_a_table(visit: Visit) -> None:
    details = visit.page.locator("#entropy_lines-numbers")
    details.locator("summary").click()
    expect_count(details.locator("tbody tr"), 36)  # they are made when they are asked for
    assert "swh_Latn · Swahili" in details.inner_text()
    labelled = visit.page.evaluate(
        "[...document.querySelectorAll('.chart')]"
        ".map(each => each.ariaLabel ?? each.querySelector('[aria-label]')?.ariaLabel)"
    )
    assert all(labelled)


def test_everything_is_done_with_the_keyboard(visit: Visit) -> None:
    page = visit.page
    focused = "document.activeElement.id || document.activeElement.textContent"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the charts"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Shift+Tab")
    for _ in range(6):
        if page.evaluate(focused) == "language":
            break
        page.keyboard.press("Shift+Tab")
    assert page.evaluate(focused) == "language"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    page.keyboard.type("latn")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert chips(visit) == ["English"]
    page.keyboard.press("Escape")
    assert page.locator("#picker").is_hidden()
    assert page.evaluate(focused) == "language"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "group"
    page.keyboard.press("Tab")
    page.keyboard.type("1.3")
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "expert-title"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#expert h3").inner_text() == "Expert 1.4"
    page.keyboard.press("Escape")
    assert page.locator("#expert").is_hidden()
    assert page.evaluate(focused) == "expert-number"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, few: Path, theme: str) -> None:
    with visited(browser, few / "report.html", f"#theme={theme}&langs=swh_Latn,hin_Deva") as opened:
        page = opened.drawn().page
        for details in ("#isolation-numbers", "#isolation .source", "header details"):
            page.locator(details).evaluate("each => { each.open = true }")
        assert axe_violations(page) == []
        page.locator("#expert-number").fill("1.1")
        page.locator("#expert-number").press("Enter")
        page.locator("#language").focus()
        assert page.locator("#picker").is_visible()
        assert axe_violations(page, "#bar") == axe_violations(page, "#expert") == []

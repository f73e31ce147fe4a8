"""The report of a store with hostile names, in a real browser: it is drawn, runs none of them, and asks nobody."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import jinja2
import pytest

from moetrace.analytics.report import write_report
from tests.support.browser import BROWSER, open_page
from tests.support.masks import mask_of
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

    from moetrace.store.format.records import RunRecord

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")

RUN = "document.documentElement.dataset.canary='ran'"
HOSTILE = (
    f"</script><script>{RUN}</script>",
    f"<img src=http://canary.invalid/x onerror={RUN}>",
    f'"><svg onload="{RUN}">',
    f"' onmouseover='{RUN}' autofocus onfocus='{RUN}",
    f"`${{{RUN}}}`",
    f'{{{{7*7}}}}{{% if 1 %}}{{{{constructor.constructor("{RUN}")()}}}}',
    f"javascript:{RUN}",
    f"]]><!--<iframe srcdoc='<script>parent.{RUN}</script>'>",
    "<link rel=stylesheet href=http://canary.invalid/y><base href=http://canary.invalid/>",
    f'");{RUN};//\\',
)
ALL = " ".join(HOSTILE)


HOVER = """<script>
const tips = new Set();
function over(mark, x, y) {
  const at = { bubbles: true, clientX: x, clientY: y };
  mark.dispatchEvent(new PointerEvent("pointermove", at));
  mark.dispatchEvent(new MouseEvent("mousemove", at));
  tips.add(document.getElementById("vg-tooltip-element")?.textContent);
}
const waiting = setInterval(() => {
  if (!document.body.dataset.drawn) return;
  clearInterval(waiting);
  for (const mark of document.querySelectorAll(".chart svg path")) over(mark, 9, 9);
  for (const chart of document.querySelectorAll(".chart canvas")) {
    const place = chart.getBoundingClientRect();
    for (let x = 0; x < place.width; x += 12) {
      for (let y = 0; y < place.height; y += 12) over(chart, place.left + x, place.top + y);
    }
  }
  document.body.dataset.tips = JSON.stringify([...tips].filter(Boolean));
}, 200);
</script>"""


def hostile_record() -> RunRecord:
    record = make_record()
    return replace(
        record,
        model={**record.model, "id": ALL, "family": ALL, "dtype": ALL, "revision": ALL},
        provenance={"model_source": ALL, "corpus_source": ALL, "machine": ALL, "created": "2025-01-01T00:00:00+00:00"},
    )


def hostile_report(folder: Path) -> Path:
    """A report whose store and mask say hostile things wherever they can."""
    record = hostile_record()
    write_world(folder / "store", make_world(5, record))
    mask = mask_of([(1, 0), (2, 3), (5, 2)], moe_layers=(1, 2, 5), num_experts=8, top_k=2, config_sha256="0" * 64)
    mask["model"] |= {"id": ALL, "family": HOSTILE[0], "revision": HOSTILE[1]}
    mask["strategy"] |= {
        "name": HOSTILE[0],
        "target": [HOSTILE[1], HOSTILE[2], "swh_Latn"],
        "parameters": {**dict(zip(HOSTILE, HOSTILE, strict=True)), "zones": {HOSTILE[0]: [1]}, "list": list(HOSTILE)},
    }
    for item, text in zip(mask["experts"], HOSTILE, strict=False):
        item |= {"zone": text, "score": 0.5}
    mask["provenance"] |= {"run": HOSTILE[0], "languages": list(HOSTILE), "moetrace_version": HOSTILE[1]}
    mask["provenance"]["created"] = f"2025-01-01T00:00{HOSTILE[9]}"[:64]
    return write_report(folder / "store", folder / "report.html", mask=mask)


def test_no_script_of_a_hostile_name_runs_and_nothing_leaves(tmp_path: Path) -> None:
    opened = open_page(hostile_report(tmp_path), tmp_path / "profile")
    assert opened.attribute("html", "data-canary") is None
    assert opened.requests == []
    assert opened.attribute("body", "data-failed") == ""
    assert int(opened.attribute("body", "data-drawn") or 0) >= 6
    assert opened.dom.count('class="marks"') == int(opened.attribute("body", "data-drawn") or 0)
    kinds = [tag for tag, _ in opened.elements]
    assert kinds.count("script") == 3
    assert not {"img", "iframe", "base", "object", "embed", "form"} & set(kinds)
    assert kinds.count("section") == kinds.count("h2") == 10
    for tag, attributes in opened.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert not attributes.get("href", "#").startswith(("javascript:", "http:")), (tag, attributes)
    for text in HOSTILE[:2]:  # they are there to be read
        assert text in opened.shown


def test_no_script_of_a_hostile_name_runs_where_charts_are_pointed_at(tmp_path: Path) -> None:
    report = hostile_report(tmp_path)
    page, end, rest = report.read_text(encoding="utf-8").rpartition("</body>")
    report.write_text(page + HOVER + end + rest, encoding="utf-8")
    opened = open_page(report, tmp_path / "profile")
    tips = json.loads(opened.attribute("body", "data-tips") or "[]")
    assert [tip for tip in tips if HOSTILE[0] in tip or HOSTILE[1] in tip or HOSTILE[2] in tip]
    assert opened.attribute("html", "data-canary") is None
    assert opened.requests == []


def test_the_same_page_without_escaping_runs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unescaped = functools.partial(_without_escaping, jinja2.Environment)
    monkeypatch.setattr("moetrace.analytics.report.page.jinja2.Environment", unescaped)
    opened = open_page(hostile_report(tmp_path), tmp_path / "profile")
    assert opened.attribute("html", "data-canary") == "ran"


def test_a_page_that_asks_for_something_is_seen_to(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<html><img src=http://canary.invalid/x><script>{RUN}</script></html>")
    opened = open_page(page, tmp_path / "profile")
    assert opened.attribute("html", "data-canary") == "ran"
    assert [request for request in opened.requests if "canary.invalid/x" in request]


def _without_escaping(environment: type[jinja2.Environment], **settings: object) -> jinja2.Environment:
    return environment(**{**settings, "autoescape": False})  # type: ignore[arg-type]

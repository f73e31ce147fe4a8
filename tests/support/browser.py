"""A page in a real browser: what became of it, and whom it asked for anything."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OWN = re.compile(r"[A-Z]+ (http://)?[a-z0-9.-]+[.](google|googleapis|gvt1)[.]com[:/]")  # the browser asks by itself
QUIET = (  # and for no more than it must
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--disable-domain-reliability", "--disable-client-side-phishing-detection", "--no-default-browser-check"),
    *("--no-pings", "--metrics-recording-only", "--disable-features=OptimizationHints,MediaRouter,Translate"),
)

LOOK = """name => {
  const chart = document.getElementById(`${name}-chart`), canvas = chart.querySelector("canvas");
  if (canvas) return canvas.toDataURL();
  const words = each => each.children.length ? "" : each.textContent;
  const of = each => ["stroke", "fill", "opacity"].map(name => each.getAttribute(name)) + words(each);
  return [...chart.querySelectorAll("svg path, svg text")].map(of).sort().join("\\n");
}"""


@dataclass
class Opened(HTMLParser):
    """The page after its scripts ran: its elements with their attributes, its text, and requests that left it."""

    dom: str
    requests: list[str]
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    shown: str = ""

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)
        self._open = [""]
        self.feed(self.dom)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open[-1] not in {"script", "style"}:
            self.shown += data

    def attribute(self, tag: str, name: str) -> str | None:
        """Return an attribute of the first element of a kind that has it."""
        return next((found[name] for each, found in self.elements if each == tag and name in found), None)


def open_page(page: Path, profile: Path) -> Opened:
    """Open a file in a browser whose every request goes to a proxy that answers none."""
    with _recording_proxy() as (port, requests):
        command = [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", *QUIET),
            *(f"--proxy-server=http://127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage"),
            *("--window-size=1280,5000", "--virtual-time-budget=20000", f"--user-data-dir={profile}"),
            *("--dump-dom", page.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return Opened(done.stdout, requests)


@contextmanager
def _recording_proxy() -> Iterator[tuple[int, list[str]]]:
    """Yield the port of a proxy, and the first line of every request that the page made of it."""
    requests: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        line = connection.recv(4096).split(b"\r\n")[0]
                    except OSError:
                        line = b""  # a connection that was opened ahead and never used
                    if line and not OWN.match(line.decode("latin-1")):
                        requests.append(line.decode("latin-1"))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield server.getsockname()[1], requests
        server.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


@dataclass
class Visit:
    """A page that is open in a browser without a network, what it asked for, and what it complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def drawn(self) -> Visit:
        """Wait until all charts are drawn."""
        self.page.wait_for_selector("body[data-drawn]", state="attached", timeout=60_000)
        assert self.page.evaluate("document.body.dataset.failed") == ""
        return self

    def seen(self, chart: str) -> str:
        """Return what a chart shows, as one text: colours and words of its SVG's marks, or the pixels of its canvas."""
        return str(self.page.evaluate(f"name => ({LOOK})(name)", chart))

    def settled(self, chart: str, other_than: str = "") -> str:
        """Return what a chart shows once it shows something else than that."""
        changed = f"([name, before]) => {{ const now = ({LOOK})(name); return now && now !== before }}"
        self.page.wait_for_function(changed, arg=[chart, other_than], timeout=20_000)
        return self.seen(chart)


@contextmanager
def one_browser() -> Iterator[Browser]:
    """Yield the browser that the tests of a module share."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
        started = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def visited(browser: Browser, page: Path, fragment: str = "", script: str = "", **options: Any) -> Iterator[Visit]:
    """Yield a report that is opened from its file, in a context of its own; nothing that it asks for is answered.

    fragment: of its address, with the #; script: what is run before the page's own; options: of the context
    """
    settings = {"viewport": {"width": 1200, "height": 900}, "accept_downloads": True, "reduced_motion": "reduce"}
    context = browser.new_context(**{**settings, **options}, offline=True)
    context.route(re.compile("^(?!file:|data:|blob:)"), lambda route: route.abort())
    if script:
        context.add_init_script(script)
    opened = Visit(context.new_page())
    address = page.absolute().as_uri()
    asked = lambda url: url.split("#")[0] != address and not url.startswith(("data:", "blob:"))  # noqa: E731
    opened.page.on("request", lambda request: opened.requests.append(request.url) if asked(request.url) else None)
    opened.page.on(
        "console",
        lambda said: opened.complaints.append(said.text) if said.type in {"error", "warning"} else None,
    )
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    try:
        opened.page.goto(address + fragment)
        yield opened
    finally:
        context.close()


def axe_violations(page: Page, part: str | None = None) -> list[str]:
    """Return what axe-core finds serious or critical in a part of the page, or in all, a line each with the element."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, part).response["violations"]
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary']}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"][:5]
    ]


def expect_count(found: Locator, count: int) -> None:
    """Wait until so many elements are there; fail where they do not come."""
    from playwright.sync_api import expect

    expect(found).to_have_count(count)

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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OWN = re.compile(r"[A-Z]+ (http://)?[a-z0-9.-]+[.](google|googleapis|gvt1)[.]com[:/]")  # the browser asks by itself
QUIET = (  # and for no more than it must
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps"),
    *("--disable-domain-reliability", "--disable-client-side-phishing-detection", "--no-default-browser-check"),
    *("--no-pings", "--metrics-recording-only", "--disable-features=OptimizationHints,MediaRouter,Translate"),
)


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

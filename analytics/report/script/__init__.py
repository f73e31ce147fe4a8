"""What the page does in a browser: scripts, one thing a file, joined to one."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
PARTS = ("data", "state", "charts", "copying", "languages", "expert", "bar", "start")


def page_script() -> str:
    """Return the page's script: its parts in order, in one scope of their own."""
    parts = [(HERE / f"{part}.js").read_text(encoding="utf-8") for part in PARTS]
    return "\n".join(('(() => {\n"use strict";', *parts, "})();\n"))

"""Whether what a command did with a hostile store is what it should have done."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hostile.case import LOOT, SECRET
from tests.hostile.hostile import BESIDE, HARMLESS, REFUSED
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.commands import Command
    from tests.hostile.hostile import Hostile

MOST_MEMORY = 1 << 30
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
OF_THE_PROGRAM = tuple(
    str(Path(path).resolve())
    for path in (sys.prefix, sys.base_prefix, ROOT, "/usr/lib", "/usr/share/zoneinfo", "/etc/localtime")
)
# Whether the process of a claim is alive, and which libraries of linear algebra this one has, to give them one thread.
PROCESS = re.compile(r"/proc/([0-9]+/stat|[0-9]+/maps|sys/kernel/random/boot_id)")
OBEYED = ("<script>alert('owned')", "1337")  # a name as it is, and what a template would make of one
VERIFYING = "verify"

Result = dict[str, Any]


def wrong(folder: Path, command: Command, result: Result, good: Result) -> Iterator[str]:
    """Yield what no command may do, whatever a store says.

    good: what the same command did with the good store
    """
    code, out, err = result["code"], result["out"], result["err"]
    if code not in {0, 1}:
        yield f"ended with {code} (-14: its time had run out)"
    if "Traceback" in err or "bug of moetrace" in err or "Exception ignored" in err:
        yield "raised"
    lines = err.splitlines()
    failures = [line for line in lines if line.startswith("moetrace: ")]
    if code == 1 and not (command.name.startswith(VERIFYING) and not failures) and len(lines) != 1:
        yield f"failed with {len(lines)} lines"
    if code == 1 and command.name.startswith(VERIFYING) and not failures and not out:
        yield "failed and names nothing"
    for name, text in (("stdout", out), ("stderr", err)):
        if found := CONTROL.search(text):
            yield f"{found[0]!r} on {name}"
    if result["peak"] > MOST_MEMORY:
        yield f"took {result['peak'] >> 20} MiB"
    yield from _touched(folder, command, result, good)
    yield from _told(folder / "work" / command.name, result)
    if command.keeps and result["lost"]:
        yield f"lost {result['lost'][:3]}"


def _touched(folder: Path, command: Command, result: Result, good: Result) -> Iterator[str]:
    """Yield what was touched that is neither the store, nor the program, nor the folder of what is written."""
    store, work = f"{folder}/store", f"{folder}/work/{command.name}"
    mask = os.path.realpath(folder / "mask.json")  # a person named it: a link is followed
    read = (store, work, mask, *OF_THE_PROGRAM, *(path for _, path in good["seen"]))
    written = (work, "/dev/null", store if command.changes else f"{store}/staging")
    for kind, path in result["seen"]:
        if kind == "never":
            yield path
        elif not _under(path, read if kind == "reads" else written) and not PROCESS.fullmatch(path):
            yield f"{kind} {path}"
    if result["canary"]:
        yield f"touches {result['canary'][:3]}"
    if result["outside_changed"]:
        yield f"changed {result['outside_changed'][:3]}"
    if result["store_changed"]:
        yield "changed the store"


def _told(work: Path, result: Result) -> Iterator[str]:
    """Yield what stands in what was printed and written, and must not."""
    for path in result["written"]:
        if LOOT in path or path.startswith(".moetrace-"):
            yield f"left {path}"
    files = [path for path in work.rglob("*") if path.is_file() and not path.is_symlink()]
    texts = [result["out"], result["err"], *(path.read_bytes().decode(errors="replace") for path in files)]
    if any(SECRET in text for text in texts):
        yield "told the secret"
    pages = [path.read_text(encoding="utf-8") for path in files if path.suffix == ".html"]
    if any(sign in page for page in pages for sign in OBEYED):
        yield "the page obeys a name"


def unexpected(hostile: Hostile, command: Command, result: Result, good: Result) -> Iterator[str]:
    """Yield where a command did not end as it must for such a store."""
    code = result["code"]
    wanted = hostile.but[command.name] if command.name in hostile.but else _wanted(hostile.expect, command)
    if wanted is not None and code != wanted:
        yield f"ended with {code}, not {wanted}"
    compared = command.reads and not command.changes and not command.name.startswith(VERIFYING)
    if code == 0 and compared and not hostile.shown and result["out"] != good["out"]:
        yield "answers otherwise than of the good store"


def _wanted(expect: str, command: Command) -> int | None:
    """Return the exit code that a command must have; None where both are right."""
    if expect == HARMLESS:
        return 0
    if not command.reads:
        return None
    if expect == REFUSED:
        return 1
    if command.name.startswith(VERIFYING):
        return None if command.name == "verify-quick" else 1
    return 0 if expect == BESIDE or command.reads == "records" else None


def _under(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)

"""Whether what a command did with a hostile store is what it should have done."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hostile.case import LOOT, SECRET
from tests.hostile.hostile import BESIDE, HARMLESS, REFUSED, ROLLUPS, TABLES, Hostile
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.commands import Command

MOST_MEMORY = 1 << 30
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
OF_THE_PROGRAM = tuple(
    str(Path(path).resolve())
    for path in (sys.prefix, sys.base_prefix, ROOT, "/usr/lib", "/usr/share/zoneinfo", "/etc/localtime")
)
PROCESS = re.compile(r"/proc/([0-9]+/stat|sys/kernel/random/boot_id)")  # whether the process of a claim is alive
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
    if command.keeps and result["lost"]:
        yield f"lost {result['lost'][:3]}"


def _touched(folder: Path, command: Command, result: Result, good: Result) -> Iterator[str]:
    store, work = f"{folder}/store", f"{folder}/work/{command.name}"
    allowed = {path for _, path in good["seen"]}
    for kind, path in result["seen"]:
        if kind == "never":
            yield path
        elif kind == "reads":
            inside = (store, work, f"{folder}/mask.json", *OF_THE_PROGRAM)
            if not _under(path, inside) and path not in allowed and not PROCESS.fullmatch(path):
                yield f"reads {path}"
        elif not _under(path, (store, work)) and path != "/dev/null":
            yield f"writes {path}"
        elif _under(path, (store,)) and not command.changes and not _under(path, (f"{store}/staging",)):
            yield f"writes {path}"
    if result["canary"]:
        yield f"touches {result['canary'][:3]}"
    if result["outside_changed"]:
        yield f"changed {result['outside_changed'][:3]}"
    if result["store_changed"] and not command.changes:
        yield "changed the store"
    for path in result["written"]:
        if LOOT in path or path.startswith(".moetrace-"):
            yield f"left {path}"
    texts = [result["out"], result["err"]]
    texts += [found.read_bytes().decode(errors="replace") for found in _files(Path(work))]
    if any(SECRET in text for text in texts):
        yield "told the secret"
    for found in _files(Path(work)):
        if found.suffix == ".html":
            page = found.read_text(encoding="utf-8")
            if "<script>alert('owned')" in page or "1337" in page:
                yield "the page obeys a name"


def unexpected(hostile: Hostile, command: Command, result: Result, good: Result) -> Iterator[str]:
    """Yield where a command did not end as it must for such a store."""
    code = result["code"]
    wanted = hostile.but[command.name] if command.name in hostile.but else _wanted(hostile, command)
    if wanted is not None and code != wanted:
        yield f"ended with {code}, not {wanted}"
    if code == 0 and not hostile.shown and command.reads and not command.changes and hostile.expect != REFUSED:
        if not command.name.startswith(VERIFYING) and result["out"] != good["out"]:
            yield "answers otherwise than of the good store"


def _wanted(hostile: Hostile, command: Command) -> int | None:
    """Return the exit code that a command must have; None where both are right."""
    if not command.reads:
        return None if hostile.expect != HARMLESS else 0
    if hostile.expect == HARMLESS:
        return 0
    if hostile.expect == REFUSED:
        return 1
    if command.name == "verify-quick":
        return None
    if command.name.startswith(VERIFYING):
        return 1
    if hostile.expect == BESIDE:
        return 0
    if hostile.expect == ROLLUPS:
        return 0 if command.reads == "records" else None
    assert hostile.expect == TABLES
    return 0 if command.reads == "records" else None


def _under(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())

"""Links, pipes and devices, folders in the place of files and files in the place of folders."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.hostile.case import COMMIT, COPY, INDEX, RUN
from tests.hostile.hostile import BESIDE, HARMLESS, REFUSED, ROLLUPS, TABLES, Hostile
from tests.support.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.hostile.case import Case

ROUTES = "routes/run=run/lang=deu_Latn/00000.parquet"
USAGE = "usage/run=run/lang=deu_Latn/00000.parquet"
CLAIM = "claims/run=run/lang=deu_Latn/00000.json"
PLAN = "plan/run=run.json"
FAILED = "failed/run=run/lang=deu_Latn/00000.json"
QUARANTINED = f"quarantine/20200101T000000Z-00000000/{ROUTES}"

# What each is must be there where it is read; what is beside it must not keep anything else from being read.
PLACES = {
    "store.json": REFUSED,
    RUN: REFUSED,
    COMMIT: REFUSED,
    ROUTES: TABLES,
    USAGE: TABLES,
    INDEX: BESIDE,
    PLAN: BESIDE,
    FAILED: BESIDE,
    COPY: REFUSED,
}
OF_A_FOLDER = {PLAN: HARMLESS, FAILED: HARMLESS}  # of no store, and read by nobody
OF_A_FILE = {"plan": HARMLESS, "quarantine": HARMLESS}
IN_THE_WAY: dict[str, dict[str, int | None]] = {  # of what a command has to write
    INDEX: {"compact": 1},
    "compact": {"compact": 1},
    "compact/run=run": {"compact": 1},
    "quarantine": {"rm": 1, "rm-lang": 1},
    "claims": {},
}
FOLDERS = {
    "runs": REFUSED,
    "commits": REFUSED,
    "commits/run=run": REFUSED,
    "commits/run=run/lang=deu_Latn": REFUSED,
    "routes": TABLES,
    "usage/run=run/lang=deu_Latn": TABLES,
    "compact": BESIDE,
    "compact/run=run": ROLLUPS,
    "claims": BESIDE,
    "plan": BESIDE,
    "quarantine": BESIDE,
}


def stores() -> Iterator[tuple[str, Hostile]]:
    for path, expect in PLACES.items():
        name = path.replace("/", "_")
        yield f"link_to_the_same_at_{name}", Hostile(_linked(path, f"canary/store/{path}"), expect)
        yield f"pipe_at_{name}", Hostile(_piped(path), expect)
        yield f"folder_at_{name}", Hostile(_folder(path), OF_A_FOLDER.get(path, expect), IN_THE_WAY.get(path, {}))
    for path in ("store.json", RUN, COMMIT, ROUTES, INDEX):
        name, expect = path.replace("/", "_"), PLACES[path]
        yield f"dangling_link_at_{name}", Hostile(_linked(path, "canary/nothing"), expect)
        yield f"loop_at_{name}", Hostile(_linked(path, f"store/{path}"), expect)
        yield f"link_to_a_device_at_{name}", Hostile(_linked(path, "/dev/zero"), expect)
        yield f"link_to_the_secret_at_{name}", Hostile(_linked(path, "canary/secret.json"), expect)
    for path, expect in FOLDERS.items():
        name = path.replace("/", "_")
        yield f"linked_folder_{name}", Hostile(_linked(path, f"canary/store/{path}"), expect, IN_THE_WAY.get(path, {}))
        yield (
            f"file_in_the_place_of_{name}",
            Hostile(_filed(path), OF_A_FILE.get(path, expect), IN_THE_WAY.get(path, {})),
        )
    yield "link_up_at_a_folder", Hostile(lambda case: case.link("commits/run=run/lang=aaa_Latn", "store"), REFUSED)
    yield "link_to_root", Hostile(lambda case: case.link("commits/run=run/lang=aaa_Latn", "/"), REFUSED)
    yield "linked_staging", Hostile(lambda case: case.link("staging", "canary"), BESIDE, {"compact": 1})
    yield "link_in_staging", Hostile(_link_in_staging, HARMLESS)
    yield "link_in_a_folder_of_staging", Hostile(_link_deep_in_staging, HARMLESS)
    yield "link_beside_everything", Hostile(lambda case: case.link("README", "canary/secret.txt"), BESIDE)
    yield "link_in_quarantine", Hostile(lambda case: case.link(QUARANTINED, "canary/secret.txt"), BESIDE)
    yield "hard_links_of_the_canary", Hostile(_hard_linked, REFUSED)


def _linked(path: str, to: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        target = case.folder / to
        if to.startswith("canary/store") and not target.exists():
            to_folder = path in FOLDERS
            case.link(path, "canary/store" if to_folder else f"canary/store/{RUN}")
            return
        case.link(path, to)

    return build


def _piped(path: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        (case.store / path).parent.mkdir(parents=True, exist_ok=True)
        case.pipe(path)

    return build


def _folder(path: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        case.remove(path)
        (case.store / path).mkdir(parents=True)
        (case.store / path / "x").write_text("x")

    return build


def _filed(path: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        case.remove(path)
        case.write(path, "x")

    return build


def _link_in_staging(case: Case) -> None:
    case.link("staging/x-1-2-3", "canary")
    _made_old(case.store / "staging/x-1-2-3")


def _link_deep_in_staging(case: Case) -> None:
    case.write("staging/x-1-2-3/file", "x")
    case.link("staging/x-1-2-3/canary", "canary")
    for path in ("file", "canary", ""):
        _made_old(case.store / "staging/x-1-2-3" / path)


def _made_old(path: Path) -> None:
    """Make it so old that `moetrace rm --staging` takes it away."""
    os.utime(path, (1e9, 1e9), follow_symlinks=False)


def _hard_linked(case: Case) -> None:
    """Nobody can tell it from a file of the store; it is a record as little as its content is one."""
    case.remove(COMMIT)
    os.link(case.canary / "secret.json", case.store / COMMIT)
    assert read_record(case.store / COMMIT)

"""What runs in a process of its own: a hostile store is built, and every command is tried on it, each in a fork."""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hostile.case import Case
from tests.hostile.commands import COMMANDS, MASK_COMMANDS, Command
from tests.hostile.kit import HOSTILE
from tests.hostile.masks import MASKS
from tests.hostile.watch import Inotify, states, watch

if TYPE_CHECKING:
    from collections.abc import Callable

IMPORTS = (
    *(f"moetrace.cli.{name}" for name in ("main", "ls", "verify", "compact", "sql", "views", "report", "export")),
    *(f"moetrace.cli.{name}" for name in ("upgrade", "rm", "train", "progress", "table", "terminal")),
    *(f"moetrace.store.{name}" for name in ("upgrade", "remove", "write.compact", "verify.repair", "mask")),
    *(f"moetrace.analytics.{name}" for name in ("database.file", "database.query", "selection", "masks.formats")),
    *("altair", "jinja2", "moetrace.tracer.training.training", "rich.console", "rich.progress", "rich.table"),
)
for _name in IMPORTS:  # once, so that a command takes milliseconds; polars starts threads, so it is left out
    importlib.import_module(_name)

TIMEOUT = 20  # seconds of a command
ADDRESS_SPACE = 12 << 30  # bytes: what keeps a bomb from the machine; what a command may really have is less
HASHED = 1 << 20  # bytes of a file: some declare 100 GB


def try_store(name: str, good: str, folder: str) -> None:
    """Try every command on a hostile store; leave what each did in `results.json`."""
    case = Case(Path(folder), Path(good))
    case.make_canary()
    _copy_mask(case)
    hostile = HOSTILE[name]
    _try_all(case, COMMANDS, hostile.build)


def try_mask(name: str, good: str, folder: str) -> None:
    """Try every command that reads a mask on a hostile one; leave what each did in `results.json`."""
    case = Case(Path(folder), Path(good))
    case.make_canary()
    _forked(lambda: MASKS[name](case, case.folder / "mask.json"))
    _try_all(case, MASK_COMMANDS, lambda _: None)


def _copy_mask(case: Case) -> None:
    shutil.copy(case.good.parent / "mask.json", case.folder / "mask.json")


def _try_all(case: Case, commands: tuple[Command, ...], build: Callable[[Case], object]) -> None:
    results = {}
    fresh = False
    inotify = Inotify(case.canary)
    for command in commands:
        if command.changes or not fresh:
            status = _forked(lambda: case.make_store(build))
            assert status == (0, False), f"the store could not be built: {status}"
            fresh = True
        inotify.take()
        results[command.name] = _try(case, command, inotify)
        fresh = not command.changes
    (case.folder / "results.json").write_text(json.dumps(results))


def _try(case: Case, command: Command, inotify: Inotify) -> dict[str, Any]:
    work = case.work(command.name)
    work.mkdir(parents=True)
    outside = states(case.folder, without=("store", "work"))
    before = states(case.store, without=("staging",))
    files = contents(case.store) if command.changes else {}
    inotify.take()
    report, out, err = (case.folder / f"{command.name}.{suffix}" for suffix in ("seen", "out", "err"))
    began = time.perf_counter()
    process = os.fork()
    if process == 0:
        _become(case, command, work, report, out, err)
    _, status, usage = os.wait4(process, 0)
    touched = inotify.take()
    after = states(case.folder, without=("store", "work"))
    texts = {path: path.read_bytes().decode(errors="backslashreplace") for path in (out, err)}
    seen = json.loads(report.read_text()) if report.exists() else []
    for path in (report, out, err):
        after.pop(path.name, None)
        path.unlink(missing_ok=True)
    kept = contents(case.store) if command.changes else {}
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": texts[out],
        "err": texts[err],
        "seen": seen,
        "canary": touched,
        "outside_changed": sorted(name for name, _ in set(outside.items()) ^ set(after.items())),
        "store_changed": before != states(case.store, without=("staging",)),
        "lost": sorted(path for path, known in files.items() if known not in kept.values()),
        "peak": usage.ru_maxrss * 1024,
        "seconds": usage.ru_utime + usage.ru_stime,
        "wall": time.perf_counter() - began,
        "written": sorted(str(path.relative_to(work)) for path in work.rglob("*")),
    }


def _become(case: Case, command: Command, work: Path, report: Path, out: Path, err: Path) -> None:
    """Be the command, watched, until it ends or its time has run out."""
    status = 70
    try:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        noted = os.open(report, os.O_CREAT | os.O_WRONLY, 0o600)
        os.chdir(work)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIMEOUT)
        seen = watch()
        status = command.run(case)
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(noted, json.dumps(sorted(seen)).encode())
    except BaseException:  # noqa: BLE001  it must not go on as the process it was forked from
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _forked(job: Callable[[], object]) -> tuple[int, bool]:
    """Do something in a process of its own: this one must not get threads, else it cannot be forked safely."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            job()
            status = 0
        except BaseException:  # noqa: BLE001  it must not go on as the process it was forked from
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), False


def contents(store: Path) -> dict[str, str]:
    """Return size and digest of every regular file of a store, by path."""
    found = {}
    for above, _, names in os.walk(store):
        for name in names:
            path = Path(above, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    found[str(path.relative_to(store))] = (
                        f"{path.stat().st_size} {sha256(file.read(HASHED)).hexdigest()}"
                    )
    return found

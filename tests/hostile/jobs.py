"""What runs in a process of its own: a hostile store is built, and every command is tried on it, each in a fork."""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.hostile.case import Case
from tests.hostile.commands import COMMANDS, MASK_COMMANDS, Command
from tests.hostile.hostile import REFUSED
from tests.hostile.kit import HOSTILE
from tests.hostile.masks import MASKS
from tests.hostile.watch import Inotify, states, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IMPORTS = (
    *(f"moetrace.cli.{name}" for name in ("main", "ls", "verify", "compact", "sql", "views", "report", "export")),
    *(f"moetrace.cli.{name}" for name in ("upgrade", "rm", "train", "progress", "table", "terminal")),
    *(
        f"moetrace.store.{name}"
        for name in ("upgrade", "remove", "write.compact", "verify.verify", "read.reader", "mask")
    ),
    *(
        f"moetrace.analytics.{name}"
        for name in ("database.file", "database.query", "database.results", "selection", "masks.mask", "masks.formats")
    ),
    *("altair", "jinja2", "pandas", "moetrace.tracer.training.training", "rich.console", "rich.progress", "rich.table"),
)
for _name in IMPORTS:  # once, so that a command takes milliseconds; polars starts threads, so it is left out
    importlib.import_module(_name)
gc.freeze()  # else every fork would copy what it looks at for garbage

TIMEOUT = 20  # seconds of a command
ADDRESS_SPACE = 12 << 30  # bytes: what keeps a bomb from the machine; what a command may really have is less
HASHED = 1 << 20  # bytes of a file: some declare 100 GB


def try_store(name: str, good: str, folder: str, everything: bool) -> None:  # noqa: FBT001  arguments come as JSON
    """Try every command on a hostile store; leave what each did in `results.json`.

    Unless `everything`, no page is drawn of stores of which it would be that of the good store.
    """
    case = Case(Path(folder), Path(good))
    case.make_canary()
    _copy_mask(case)
    hostile = HOSTILE[name]
    slow = () if everything or hostile.shown or hostile.expect == REFUSED else ("report",)
    _try_all(case, [command for command in COMMANDS if command.name not in slow], hostile.build)


def try_mask(name: str, good: str, folder: str) -> None:
    """Try every command that reads a mask on a hostile one; leave what each did in `results.json`."""
    case = Case(Path(folder), Path(good))
    case.make_canary()
    _forked(lambda: MASKS[name](case, case.folder / "mask.json"))
    _try_all(case, MASK_COMMANDS, lambda _: None)


def _copy_mask(case: Case) -> None:
    shutil.copy(case.good.parent / "mask.json", case.folder / "mask.json")


def _try_all(case: Case, commands: Sequence[Command], build: Callable[[Case], object]) -> None:
    """Try what only reads in one process, and what may change the store in one of its own, on a store of its own."""
    inotify = Inotify(case.canary)
    results = {}
    for group in [[each for each in commands if not each.changes], *([each] for each in commands if each.changes)]:
        if group:
            status = _forked(lambda: case.make_store(build))
            assert status == 0, "the store could not be built"
            results |= _try(case, group, inotify)
    (case.folder / "results.json").write_text(json.dumps(results))


def _try(case: Case, commands: Sequence[Command], inotify: Inotify) -> dict[str, Any]:
    """Run commands, one after the other; return what each did, and nothing of those that there was no time for."""
    changes = commands[0].changes
    outside = states(case.folder, without=("store", "work"))
    before = states(case.store, without=("staging",))
    files = contents(case.store) if changes else {}
    for command in commands:
        case.work(command.name).mkdir(parents=True)
    inotify.take()
    process = os.fork()
    if process == 0:
        _become(case, commands)
    _, status, usage = os.wait4(process, 0)
    touched = inotify.take()
    kept = contents(case.store).values() if changes else ()
    of_all = {
        "canary": touched,
        "outside_changed": sorted(dict(outside.items() ^ states(case.folder, without=("store", "work")).items())),
        "store_changed": not changes and before != states(case.store, without=("staging",)),
        "lost": sorted(path for path, known in files.items() if known not in kept),
        "peak": usage.ru_maxrss * 1024,
        "seconds": usage.ru_utime + usage.ru_stime,
    }
    return {
        command.name: {**_noted(case, command, os.waitstatus_to_exitcode(status)), **of_all} for command in commands
    }


def _noted(case: Case, command: Command, status: int) -> dict[str, Any]:
    """Return what a command left: what it printed, what it touched, and its exit code, of its process where it died."""
    work = case.work(command.name)
    paths = {name: work.with_suffix(f".{name}") for name in ("out", "err", "seen")}
    noted = {
        name: path.read_bytes().decode(errors="backslashreplace") if path.exists() else ""
        for name, path in paths.items()
    }
    seen = json.loads(noted["seen"]) if noted["seen"] else {"code": status, "seen": []}
    written = sorted(str(path.relative_to(work)) for path in work.rglob("*"))
    return {"out": noted["out"], "err": noted["err"], "written": written, **seen}


def _become(case: Case, commands: Sequence[Command]) -> None:
    """Be the commands, watched, until they end or the time of one has run out."""
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        seen = watch()
        for command in commands:
            work = case.work(command.name)
            for number, name in ((1, "out"), (2, "err")):
                handle = os.open(work.with_suffix(f".{name}"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
                os.dup2(handle, number)
                os.close(handle)
            os.chdir(work)
            seen.clear()
            signal.alarm(TIMEOUT)
            code = command.run(case)
            signal.alarm(0)
            sys.stdout.flush()
            sys.stderr.flush()
            noted = {"code": code, "seen": sorted(seen)}
            work.with_suffix(".seen").write_text(json.dumps(noted))
        status = 0
    except BaseException:  # noqa: BLE001  it must not go on as the process it was forked from
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _forked(job: Callable[[], object]) -> int:
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
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


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

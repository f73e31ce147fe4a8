"""Reads files of strangers, case after case: each is read, or refused in one line, within memory that its size bounds.

`python -m tests.fuzz.imports --minutes 60` goes on from a random seed and stops at the first case that does otherwise;
`--first N --cases 1` is one case again.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from moetrace.analytics.masks.formats import FORMATS as MASK_FORMATS
from moetrace.store.errors import MoetraceError
from moetrace.store.imports import FORMATS, ImportRequest, Source
from moetrace.store.mask import mask_text, read_mask
from moetrace.store.progress import Progress
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from tests.fuzz.cases import make_case

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.fuzz.cases import Case

TIMES = 10  # memory that reading may take, in sizes of what is read, and beside them
BASE = 128 << 20
SLOW = 60.0  # seconds
LONGEST = 1500  # characters of a message, with its path


class WrongCaseError(AssertionError):
    """A case was neither read nor refused as it should be."""


def run_case(seed: int) -> tuple[str, int]:
    """Make and read one case; return what came of it, and by how much memory grew beyond TIMES its size, in bytes."""
    folder = Path(tempfile.mkdtemp(prefix="moetrace-fuzz-"))
    try:
        case = make_case(random.Random(seed), folder)  # noqa: S311  not for secrets
        came, beyond = check_case(case, folder / "store")
    except WrongCaseError as error:
        raise WrongCaseError(f"case {seed}: {error}") from error
    except Exception as error:
        raise WrongCaseError(f"case {seed}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(folder)
    return f"{case.kind} {came.partition(':')[0]}", beyond


def check_case(case: Case, store: Path) -> tuple[str, int]:
    """Read a case into a store; return `read` or `refused: ` and why, and the memory beyond TIMES its size, in bytes.

    Raises WrongCaseError where it is neither, or takes more memory or time than it may.
    """
    size, before, started = _size(case.source), _start_measuring(), time.monotonic()
    came = _read(case, store)
    beyond = _status("VmHWM") - before - TIMES * size
    if beyond > BASE:
        raise WrongCaseError(f"{case.kind}: {size:,} bytes took {TIMES} times that and {beyond:,} bytes ({came})")
    if time.monotonic() - started > SLOW:
        raise WrongCaseError(f"{case.kind}: {size:,} bytes took {time.monotonic() - started:.0f} s ({came})")
    return came, beyond


def _read(case: Case, store: Path) -> str:
    """Return `read`, or `refused: ` and the message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if case.kind == "mask":
                mask = read_mask(case.source)
                mask_text(mask)
                for convert in MASK_FORMATS.values():
                    with suppress(MoetraceError):  # a format of another strategy
                        convert(mask)
                return "read"
            name = "esft" if case.kind == "archive" else case.kind
            source = Source(case.source, None if name == "rise-stats" else "a")
            result = FORMATS[name](store, ImportRequest((source,), "run", **case.options), Progress())
    except MoetraceError as error:
        message = str(error)
        if not message.isprintable() or len(message) > LONGEST:
            raise WrongCaseError(f"{case.kind}: a message that is no line: {message[:2000]!r}") from error
        _check_store(store, none=case.kind in {"usage-json", "rise-stats"})
        return f"refused: {message}"
    if result.missing or not result.written_shards:
        raise WrongCaseError(f"{case.kind}: read, but {result}")
    _check_store(store, none=False)
    return "read"


def _check_store(store: Path, *, none: bool) -> None:
    if not store.exists():
        return
    if none and Store(store).commits:
        raise WrongCaseError("refused, but written")
    if problems := verify(store).problems:
        raise WrongCaseError(f"the store has problems: {problems[:3]}")


def _size(source: Path) -> int:
    """Return the bytes of a file or folder that are there: holes are none."""
    files = [source, *(source.iterdir() if source.is_dir() else ())]
    found = [path.stat() for path in files if path.is_file()]
    return sum(min(status.st_size, status.st_blocks * 512) for status in found)


def _start_measuring() -> int:
    """Return the memory in use, and set the highest that was in use to it."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def fuzz(seeds: Iterable[int], *, until: float = float("inf")) -> tuple[Counter[str], int]:
    """Run cases until a time; return how many came to what, and the most that memory grew beyond TIMES a size."""
    came, most = Counter[str](), 0
    gc.collect()
    gc.freeze()  # what is there now need not be looked at before each case
    try:
        for seed in seeds:
            if time.monotonic() > until:
                break
            outcome, beyond = run_case(seed)
            came[outcome] += 1
            most = max(most, beyond)
    finally:
        gc.unfreeze()
    return came, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--first", type=int, help="seed of the first case; at random unless told")
    parser.add_argument("--cases", type=int)
    asked = parser.parse_args()
    first = random.SystemRandom().randrange(10**12) if asked.first is None else asked.first
    seeds = itertools.count(first) if asked.cases is None else range(first, first + asked.cases)
    came, most = fuzz(seeds, until=time.monotonic() + 60 * asked.minutes)
    sys.stdout.write(f"{sum(came.values()):,} cases from {first} on, at most {TIMES} x size + {most / 2**20:.1f} MiB\n")
    for outcome, count in sorted(came.items()):
        sys.stdout.write(f"{count:9,} {outcome}\n")


if __name__ == "__main__":
    main()

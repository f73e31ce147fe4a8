"""The trace of an early checkpoint of the bundled model, put into a store to compare a later run with."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from moetrace.store.errors import StoreError
from moetrace.store.read.reader import Store
from moetrace.tracer.bundled import EARLY, EARLY_RUN


def begin_with_early(store: Path) -> None:
    """Make a store that holds the early run, or find that it is in the one that is there.

    The copy is made beside `store` and renamed, so that it is there whole or not at all. Raises StoreError where a
    store is there without the run.
    """
    if store.exists():
        if EARLY_RUN not in Store(store).runs:
            raise StoreError(f"{store}: a store without the run `{EARLY_RUN}`: name another folder, or remove this one")
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.parent, prefix=f".{store.name}-") as scratch:
        copied = Path(shutil.copytree(EARLY, Path(scratch) / store.name))
        copied.rename(store)

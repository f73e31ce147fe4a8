"""Reports that tests of the page share, each made once a session, and the browser that opens them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from moetrace.analytics.database.connection import connect
from moetrace.analytics.masks.mask import build_mask
from moetrace.analytics.report import write_report
from moetrace.analytics.selection import rise
from moetrace.store.mask import mask_text
from tests.support.browser import one_browser
from tests.support.many_languages import write_many
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

FEW = ("eng_Latn", "deu_Latn", "swh_Latn", "zho_Hans", "hin_Deva", "arb_Arab", "rus_Cyrl", "spa_Latn", "tam_Taml")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of a module: one a session would keep an event loop running in the tests of others."""
    with one_browser() as started:
        yield started


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first process of the session that asks has filled."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "report.html").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of nine languages, a mask of it and its report."""

    def make(folder: Path) -> None:
        record = make_record(languages=FEW, moe_layers=(1, 2, 3, 5), num_experts=16)
        opened = connect(write_world(folder / "store", make_world(3, record, texts=12)))
        mask = build_mask(rise(opened, "run", ["swh_Latn"], budget=9, min_count=0), record, "2025-01-01T00:00:00+00:00")
        (folder / "mask.json").write_text(mask_text(mask), encoding="utf-8")
        write_report(folder / "store", folder / "report.html", mask=folder / "mask.json")

    return made_once(tmp_path_factory, "few", make)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 200 languages x 48 layers x 128 experts and its report."""

    def make(folder: Path) -> None:
        write_many(folder / "store")
        write_report(folder / "store", folder / "report.html")

    return made_once(tmp_path_factory, "many", make)

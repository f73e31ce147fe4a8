"""Traces that other tools made, read into a store: one format a file, each a function of the same arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.imports.esft import import_esft
from moetrace.store.imports.request import ImportRequest, ImportResult, Source
from moetrace.store.imports.rise_stats import import_rise_stats
from moetrace.store.imports.usage_json import import_usage_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moetrace.store.progress import Progress
    from moetrace.store.storage.base import Storage

__all__ = ["FORMATS", "ImportRequest", "ImportResult", "Source"]

FORMATS: dict[str, Callable[[str | Path | Storage, ImportRequest, Progress], ImportResult]] = {
    "esft": import_esft,
    "usage-json": import_usage_json,
    "rise-stats": import_rise_stats,
}

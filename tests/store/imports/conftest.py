"""The counts that were published for MGSM, of several languages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

MGSM = ("bn", "de", "en", "es", "sw", "zh")


@pytest.fixture(scope="module")
def mgsm(shared_data: Path) -> dict[str, dict[str, Any]]:
    folder = shared_data / "qwen3-30b-a3b-mgsm"
    return {lang: json.loads((folder / f"mgsm_{lang}.json").read_text()) for lang in MGSM}

"""Where the repository is, and the real corpora and traces beside it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MOETRACE_SHARED", ROOT.parent / "shared"))

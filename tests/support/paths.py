"""Where the repository is, its packages and modules, and the real corpora and traces beside it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MOETRACE_SHARED", ROOT.parent / "shared"))
PACKAGES = ("analytics", "cli", "sql", "store", "tracer")  # folders at the top, each a package of moetrace


def product_modules() -> dict[str, Path]:
    """Every module by its import name, with its file in the folder at the top."""
    files = {path: path.relative_to(ROOT) for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))}
    files |= {path: Path(path.name) for path in sorted((ROOT / "src" / "moetrace").glob("*.py"))}
    return {
        ".".join(["moetrace", *inside.with_suffix("").parts]).removesuffix(".__init__"): path
        for path, inside in files.items()
    }

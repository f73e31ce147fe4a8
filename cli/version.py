"""What a report of a fault should name: versions, processor, GPU. Imports nothing that it names."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from moetrace.cli.terminal import printable
from moetrace.store.format.schema import FORMAT_VERSION
from moetrace.tracer.model.installing import gpus
from moetrace.tracer.worker.contacts import VLLM, installed_version

PACKAGES = ("torch", "transformers", "tokenizers", "pyarrow", "duckdb", "polars", "numpy", "ray")


def version_lines() -> list[str]:
    """Return the lines: moetrace and its store format, Python and system, processor, GPUs, packages."""
    packages = [installed_version(*VLLM) or "no vllm", *(installed_version(name) or f"no {name}" for name in PACKAGES)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"{installed_version('moetrace') or 'moetrace, not installed'}, store format {FORMAT_VERSION}",
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        printable(f"processor: {_processor()}, {cores} cores"),
        printable(f"GPU: {', '.join(gpus()) or 'none found'}"),
        f"packages: {', '.join(packages)}",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())

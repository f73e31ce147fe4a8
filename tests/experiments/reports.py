"""The reports that `make reports` builds and opens in a browser: a trace, counts of a large model, a pair of runs.

    python -m tests.experiments.reports --data ../shared/data -o moetrace-reports

Writes `udhr.html`, `qwen3.html` and `pair.html` with the stores behind them. What is there already is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

RUNS = ("float32", "bfloat16")  # the same texts and model, in two precisions


def moetrace(*words: str | Path) -> None:
    """Run a command of moetrace's as a person types it."""
    print("moetrace", *words, flush=True)
    subprocess.run([sys.executable, "-m", "moetrace.cli.main", *map(str, words)], check=True)


def udhr(data: Path, output: Path) -> None:
    """Trace the bundled model on the UDHR, with a mask for Swahili."""
    store, mask = output / "udhr", output / "udhr-mask.json"
    trace(data, store, "float32")
    moetrace("export", "rise", store, "--run", "float32", "--target", "swh_Latn", "--budget", "24", "-o", mask)
    moetrace("report", store, "--run", "float32", "--mask", mask, "-o", output / "udhr.html")


def qwen3(data: Path, output: Path) -> None:
    """Import the published counts of Qwen3-30B-A3B on MGSM."""
    files = sorted((data / "qwen3-30b-a3b-mgsm").glob("mgsm_*.json"))
    named = [f"{file.stem.removeprefix('mgsm_')}={file}" for file in files]
    store = output / "qwen3"
    facts = ("--model-id", "Qwen/Qwen3-30B-A3B", "--top-k", "8", "--experts", "128")
    moetrace("import", "usage-json", *named, "--store", store, "--run", "mgsm", *facts)
    moetrace("report", store, "--run", "mgsm", "-o", output / "qwen3.html")


def pair(data: Path, output: Path) -> None:
    """Trace the UDHR a second time, in another precision, and compare the two runs."""
    store = output / "udhr"
    for run in RUNS:
        trace(data, store, run)
    runs = [word for run in RUNS for word in ("--run", run)]
    moetrace("report", store, *runs, "-o", output / "pair.html")


def trace(data: Path, store: Path, precision: str) -> None:
    """Trace the UDHR as a run that is called as its precision; a run that is there is not traced again."""
    words = ("--corpus", data / "udhr", "--store", store, "--run", precision, "--pivot", "eng_Latn")
    moetrace("trace", "bundled", *words, "--dtype", precision)


REPORTS = {"udhr": udhr, "qwen3": qwen3, "pair": pair}


def main() -> None:
    """Build what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(REPORTS), help="one of them")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("moetrace-reports"))
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    for name in [arguments.only] if arguments.only else REPORTS:
        REPORTS[name](arguments.data, arguments.output)


if __name__ == "__main__":
    main()

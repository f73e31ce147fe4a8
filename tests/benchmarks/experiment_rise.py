"""The experiment: which experts of the micro model are worth training for a language that it hardly knows.

`make experiment-rise` runs it. The bundled model was trained on 10 % of the user-interface strings of Irish, Malayalam
and Swiss German; the other 90 % are what it is adapted to here. For each language: trace texts of all 30 languages,
select experts by rise, gap and top-k, add a random mask with rise's numbers per layer and, beside them, training of the
whole model, at its best learning rate (full) and at one that hurts others less (full-low); train each with three seeds
on the same texts; measure the held-out loss of the language and of the others.
A seed is that of the order of texts, and of the random mask. Finished trainings are kept: run it again to go on.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click

TARGETS = ("gle_Latn", "mal_Mlym", "gsw_Latn")
METHODS = ("rise", "gap", "top-k", "random", "full")  # at their best rates; full-low is compared with them
SEEDS = (0, 1, 2)
RUN = "strings"
TRACED_TEXTS = 400  # a language; the same ids in all
BUDGET = 16  # experts of 256
# Among all 30 languages hardly an expert leads by gap's 0.01: it compares with some high-resource ones.
GAP_REFERENCE = ("eng_Latn", "deu_Latn", "spa_Latn", "rus_Cyrl", "jpn_Jpan", "zho_Hans")

# The best of SWEPT for each, on the development texts of the first target, with another seed: --sweep. At full-low's,
# training everything does not hurt other languages more than training any mask at its best.
RATES = {"rise": 1e-2, "gap": 3e-2, "top-k": 1e-2, "random": 3e-2, "full": 3e-3, "full-low": 3e-4}
SWEPT = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SWEEP_SEED = 100
TRAINING = {"epochs": 3.0, "length": 128, "batch_size": 16, "eval_texts": 100, "dtype": "float32"}


@dataclass(frozen=True)
class Job:
    """One training: a method and a seed for a target language."""

    target: str
    method: str
    seed: int
    rate: float
    folder: Path
    mask: Path | None
    texts: Path
    held_out: Path


def write_texts(ui_strings: Path, folder: Path) -> None:
    """Write what is adapted to, what of it is for development, and what is held out, a file a language each."""
    from moetrace.tracer.bundled.training_texts import id_fraction, is_held_out, is_withheld, read_corpus

    parts: dict[tuple[str, str], list[str]] = {}
    for row in read_corpus("ui-strings", ui_strings):
        if is_held_out(row):
            part = "held-out"
        elif row.lang in TARGETS and not is_withheld(row):
            continue  # the model has seen it
        else:
            part = "development" if id_fraction(row.id, "development") < 0.1 else "adapt"
        line = json.dumps({"id": row.id, "text": row.text}, ensure_ascii=False)
        parts.setdefault((part, row.lang), []).append(line)
    for (part, lang), lines in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def moetrace(*arguments: object) -> None:
    """Run a moetrace command; what it says goes to stderr."""
    subprocess.run([sys.executable, "-m", "moetrace.cli.main", *map(str, arguments)], check=True, stdout=sys.stderr)


def select(store: Path, folder: Path, target: str, seeds: tuple[int, ...]) -> dict[tuple[str, int], Path]:
    """Export the masks of a target, for each seed; (method, seed) -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    common = (store, "--run", RUN)
    files = {method: folder / f"{target}-{method}.json" for method in ("rise", "gap", "top-k")}
    moetrace("export", "rise", *common, "--target", target, "--budget", BUDGET, "-o", files["rise"])
    references = [part for lang in GAP_REFERENCE for part in ("--reference", lang)]
    moetrace("export", "gap", *common, "--target", target, *references, "-o", files["gap"])
    moetrace("export", "top-k", *common, "--target", target, "--budget", BUDGET, "-o", files["top-k"])
    found = {(method, seed): file for method, file in files.items() for seed in seeds}
    for seed in seeds:
        found["random", seed] = folder / f"{target}-random-{seed}.json"
        moetrace(
            *("export", "random", *common, "--like", files["rise"], "--seed", seed, "-o", found["random", seed]),
        )
    return found


def run_job(job: Job) -> None:
    """Train once, on one thread."""
    import torch

    from moetrace.store.mask import read_mask
    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.training.settings import TrainingSettings
    from moetrace.tracer.training.training import train

    if (job.folder / "results.json").exists():
        return
    torch.set_num_threads(1)
    settings = TrainingSettings(
        languages=(job.target,),
        eval_corpus=str(job.held_out),
        learning_rate=job.rate,
        seed=job.seed,
        save_every=10_000,
        **TRAINING,
    )
    mask = None if job.mask is None else read_mask(job.mask)
    train(str(MODEL), str(job.texts), job.folder, mask=mask, settings=settings, resume=job.folder.exists())


def run_jobs(jobs: list[Job]) -> None:
    """Run the trainings, one a core, longest first."""
    start = time.monotonic()
    jobs = sorted(jobs, key=lambda job: job.mask is not None)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done, job in enumerate(pool.map(run_job, jobs), start=1):
            del job
            click.echo(f"{done} of {len(jobs)} trainings, {time.monotonic() - start:.0f} s", err=True)


@dataclass(frozen=True)
class Outcome:
    """What one training did: losses in nats a token, of the target and the mean over the other languages."""

    target: tuple[float, float]
    others: tuple[float, float]
    worst: float
    parameters: int
    share: float
    seconds: float


def read_outcome(folder: Path) -> Outcome:
    """Read a finished training."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    target = [row for row in found["losses"] if row["trained"]]
    others = [row for row in found["losses"] if not row["trained"]]
    return Outcome(
        (target[0]["before"], target[0]["after"]),
        (statistics.mean(row["before"] for row in others), statistics.mean(row["after"] for row in others)),
        max(row["after"] - row["before"] for row in others),
        found["trained_parameters"],
        found["trained_parameters"] / found["parameters"],
        found["seconds"],
    )


def table(outcomes: dict[tuple[str, str], list[Outcome]], masks: dict[tuple[str, str], Path]) -> str:
    """Return the results as Markdown: means over seeds, and their standard deviation."""
    lines = [
        "| language | method | learning rate | experts | parameters | its loss | the others' loss | worst of them |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for target in TARGETS:
        first = outcomes[target, "full"][0]
        lines.append(f"| {target} | untrained | | | | {first.target[0]:.3f} | {first.others[0]:.3f} | |")
        for method, rate in RATES.items():
            found, mask = outcomes[target, method], masks.get((target, method))
            experts = "all" if mask is None else len(json.loads(mask.read_text(encoding="utf-8"))["experts"])
            lines.append(
                f"| {target} | {method} | {rate:g} | {experts} | {found[0].share:.1%} "
                f"| {_spread([item.target[1] for item in found])} | {_spread([item.others[1] for item in found])} "
                f"| {statistics.mean(item.worst for item in found):+.3f} |"
            )
    return "\n".join(lines)


def sweep_table(outcomes: dict[tuple[str, float], Outcome]) -> str:
    """Return the sweep as Markdown: for each rate and method the loss of the target, and the mean of the others'."""
    first = next(iter(outcomes.values()))
    lines = [
        f"| learning rate | {' | '.join(METHODS)} |",
        "|---:|" + "---:|" * len(METHODS),
        "| untrained |" + f" {first.target[0]:.3f} / {first.others[0]:.3f} |" * len(METHODS),
    ]
    for rate in SWEPT:
        found = [outcomes[method, rate] for method in METHODS]
        cells = " | ".join(f"{one.target[1]:.3f} / {one.others[1]:.3f}" for one in found)
        lines.append(f"| {rate:g} | {cells} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


@click.command()
@click.option("--ui-strings", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--sweep", is_flag=True, help="Only try learning rates, on the first target's development texts.")
def main(ui_strings: Path, output: Path, sweep: bool) -> None:  # noqa: FBT001
    """Run the experiment and print its table."""
    start = time.monotonic()
    texts, store = output / "texts", output / "store"
    if not texts.exists():
        write_texts(ui_strings, texts)
    moetrace(
        *("trace", "bundled", "--corpus", texts / "adapt", "--store", store, "--run", RUN),
        *("--dtype", "float32", "--sample", TRACED_TEXTS, "--no-routes"),
    )
    targets, methods, seeds = (TARGETS[:1], METHODS, (SWEEP_SEED,)) if sweep else (TARGETS, tuple(RATES), SEEDS)
    masks = {target: select(store, output / "masks", target, seeds) for target in targets}
    jobs = [
        Job(
            target,
            method,
            seed,
            rate,
            output / ("sweep" if sweep else "trained") / f"{target}-{method}-{seed}-{rate:g}",
            masks[target].get((method, seed)),
            texts / "adapt",
            texts / ("development" if sweep else "held-out"),
        )
        for target in targets
        for method in methods
        for seed in seeds
        for rate in (SWEPT if sweep else (RATES[method],))
    ]
    run_jobs(jobs)
    if sweep:
        print(sweep_table({(job.method, job.rate): read_outcome(job.folder) for job in jobs}))
        return
    outcomes: dict[tuple[str, str], list[Outcome]] = {}
    for job in jobs:
        outcomes.setdefault((job.target, job.method), []).append(read_outcome(job.folder))
    print(
        table(outcomes, {(target, method): file for target in TARGETS for (method, _), file in masks[target].items()})
    )
    print(f"\n{len(jobs)} trainings; {(time.monotonic() - start) / 60:.0f} minutes in all on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

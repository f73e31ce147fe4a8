"""Run the experiment and print its tables.

    python -m tests.experiments.rise --ui-strings DIR -o OUT [--third] [--quick] [--results FILE]
    python -m tests.experiments.rise --from docs/findings/rise.json

Every training is kept in OUT/trained under a digest of what determines it: run it again to go on.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tests.experiments.rise.arms import (
    FULL_RATES,
    RATES,
    TARGETS,
    THIRD,
    Arm,
    decisions,
    described,
    select,
    similar_languages,
    trace,
)
from tests.experiments.rise.tables import at_the_border, choose_rates, tables
from tests.experiments.rise.texts import write_texts
from tests.experiments.rise.trainings import Job, file_digest, kept, lora_rank, run_job

if TYPE_CHECKING:
    from collections.abc import Iterable

SEEDS, MASKS, SWEEP_SEED = (0, 1, 2, 3, 4), 3, 100
QUICK_SEEDS, QUICK_RATES, QUICK_FULL_RATES, QUICK_EPOCHS = (0, 1), (1e-3, 3e-3), (1e-3, 1e-4), 1
EPOCHS, OTHERS_TEXTS, TARGET_TEXTS = 2, 30, 98


def run_jobs(jobs: Iterable[Job], folder: Path) -> list[dict[str, Any]]:
    """Do the trainings that are not kept, one a core, and return all of them with what they were."""
    jobs = list(jobs)
    todo = [job for job in jobs if kept(job, folder) is None]
    start = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done, future in enumerate(as_completed([pool.submit(run_job, job, folder) for job in todo]), start=1):
            future.result()
            click.echo(f"{done} of {len(todo)} trainings, {time.monotonic() - start:.0f} s", err=True)
    return [_record(job, folder) for job in jobs]


def _record(job: Job, folder: Path) -> dict[str, Any]:
    found = kept(job, folder)
    if found is None:
        raise click.ClickException(f"{job.file(folder)}: not there; run the command again")
    return {
        "target": job.target,
        "method": job.method,
        "draw": job.draw,
        "seed": job.seed,
        "rate": job.rate,
        "parameters": found["parameters"],
        "seconds": found["seconds"],
        "steps": [point["step"] for point in found["curve"]],
        "losses": [[round(loss, 4) for loss in point["losses"]] for point in found["curve"]],
    }


def job_of(arm: Arm, template: Job, target: str, experts: list[list[int]] | None) -> Job:
    """Return the job of an arm, without its rate and seed."""
    return replace(
        template,
        target=target,
        method=arm.method,
        draw=arm.draw,
        experts=None if experts is None else tuple((layer, expert) for layer, expert in experts),
        mask=None if arm.mask is None else str(arm.mask),
        rank=template.rank if arm.method == "lora" else None,
    )


def experiment(ui_strings: Path, output: Path, *, third: bool, quick: bool) -> dict[str, Any]:
    """Run whatever is left to run, and return the raw results."""
    from transformers import AutoConfig

    from moetrace.tracer.bundled import MODEL

    texts, store, kept_in = output / "texts", output / "store", output / "trained"
    write_texts(ui_strings, texts)
    trace(texts, store)
    every = (*TARGETS, THIRD) if third else TARGETS
    targets = every[:1] if quick else every
    arms = select(store, output / "masks", every, 1 if quick else MASKS)
    seeds, rates, full_rates = (QUICK_SEEDS, QUICK_RATES, QUICK_FULL_RATES) if quick else (SEEDS, RATES, FULL_RATES)
    languages = tuple(sorted(path.stem for path in (texts / "held-out").glob("*.jsonl")))
    masks = {
        target: {f"{arm.method}/{arm.draw}": described(arm, shares) for arm in arms[target]}
        for target in targets
        for shares in [decisions(store, target)]
    }
    template = Job(
        model=str(MODEL),
        model_sha256=file_digest([MODEL / "model.safetensors", MODEL / "tokenizer.json"]),
        texts=str(texts),
        texts_sha256=file_digest(list(texts.rglob("*.jsonl"))),
        part="held-out",
        target="",
        languages=languages,
        method="",
        draw=0,
        experts=None,
        mask=None,
        rank=lora_rank(AutoConfig.from_pretrained(MODEL), masks[targets[0]]["rise/0"]["parameters"]),
        rate=0.0,
        seed=0,
        epochs=QUICK_EPOCHS if quick else EPOCHS,
        others_texts=OTHERS_TEXTS,
        target_texts=TARGET_TEXTS,
    )
    results: dict[str, Any] = {
        "targets": list(targets),
        "languages": list(languages),
        "similar": {target: similar_languages(store, target) for target in targets},
        "masks": masks,
        "rank": template.rank,
        "epochs": template.epochs,
        "cores": os.cpu_count(),
    }

    def arm_job(target: str, arm: Arm) -> Job:
        return job_of(arm, template, target, masks[target][f"{arm.method}/{arm.draw}"]["experts"])

    swept = [
        replace(arm_job(target, arm), part="development", rate=rate, seed=SWEEP_SEED)
        for target in targets
        for arm in arms[target]
        if arm.draw == 0
        for rate in (full_rates if arm.method == "full" else rates)
    ]
    results["sweep"] = run_jobs(swept, kept_in)
    results["chosen"] = choose_rates(results)
    final = [
        replace(arm_job(target, arm), rate=rate, seed=seed)
        for target in targets
        for arm in arms[target]
        for rate in (full_rates if arm.method == "full" else [results["chosen"][target][arm.method]])
        for seed in seeds
    ]
    results["trainings"] = run_jobs(final, kept_in)
    return results


@click.command()
@click.option("--ui-strings", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--third", is_flag=True, help="Swiss German, too.")
@click.option("--quick", is_flag=True, help="One language, two seeds, one mask drawn, two rates, one epoch.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="Write the raw results here.")
@click.option("--from", "source", type=click.Path(exists=True, path_type=Path), help="Only print these results.")
def main(
    ui_strings: Path | None,
    output: Path | None,
    third: bool,  # noqa: FBT001
    quick: bool,  # noqa: FBT001
    results: Path | None,
    source: Path | None,
) -> None:
    """Run the experiment and print its tables."""
    if source is not None:
        found = json.loads(source.read_text(encoding="utf-8"))
    elif ui_strings is None or output is None:
        raise click.UsageError("give --ui-strings and -o, or --from")
    else:
        found = experiment(ui_strings, output, third=third, quick=quick)
        results = results or output / "results.json"
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(tables(found))
    trainings = [*found["sweep"], *found["trainings"]]
    minutes = sum(one["seconds"] for one in trainings) / 60
    print(f"\n{len(trainings)} trainings, {minutes:.0f} minutes of one core")
    for border in at_the_border(found):
        click.echo(f"rate at the border of those tried: {border}", err=True)


if __name__ == "__main__":
    main()

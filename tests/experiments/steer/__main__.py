"""Steer the bundled model by English's task experts, in six languages, and print what came out.

python -m tests.experiments.steer --data DIR -o OUT [--results FILE]
python -m tests.experiments.steer --from docs/findings/steer.json
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.bundled.training_texts import is_held_out, read_corpora
from tests.experiments.steer.experts import interventions
from tests.experiments.steer.tables import as_json, tables
from tests.experiments.steer.task import FOLDS, parallel, write_tasks

if TYPE_CHECKING:
    from moetrace.store.intervention import Intervention
    from moetrace.tracer.evaluation.evaluate import Evaluated
    from moetrace.tracer.evaluation.evaluator import Evaluator

DRAWS = 3
CONTROLS = ("random", "load", "outside")


def experiment(data: Path, output: Path) -> dict[str, Any]:
    """Trace English, choose its task experts, ask every language under every intervention; return the raw results."""
    from moetrace.analytics.database.connection import connect
    from moetrace.analytics.evaluation.results import results_of
    from moetrace.analytics.selection import task
    from moetrace.tracer.bundled.command import moetrace as command

    held_out = [row for row in read_corpora(data / "ui-strings", data / "udhr", CORPUS) if is_held_out(row)]
    write_tasks(parallel(held_out), output)
    store = output / "store"
    for fold in FOLDS:
        for run in (f"english-task-{fold}", f"english-alone-{fold}"):
            command(
                "trace", "bundled", "--corpus", output / run, "--store", store, "--run", run, "--dtype", "float32",
                "--no-routes", "--no-profiles",
            )  # fmt: skip
    outcomes: list[dict[str, Any]] = []
    chosen, arms = [], []
    for fold in FOLDS:
        with connect(store) as connection:
            top_k = json.loads((MODEL / "config.json").read_text())["num_experts_per_tok"]
            run, against = f"english-task-{1 - fold}", f"english-alone-{1 - fold}"
            experts = task(connection, run, against=against, per_layer=top_k).experts
        chosen.append([[item.layer, item.expert, round(item.score or 0.0, 6)] for item in experts])
        found = _evaluated(output / f"task-{fold}", interventions(experts))
        outcomes += [vars(one) for one in found.outcomes]
        arms = [arm.record() for arm in found.arms]
    results = results_of(outcomes, arms, "choice", {}, replicates=2000)
    return {"experts": chosen, **as_json(results)}


def _evaluated(task: Path, steps: list[Intervention]) -> Evaluated:
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.evaluation.arms import INTERVENTION, Arm
    from moetrace.tracer.evaluation.evaluate import evaluate
    from moetrace.tracer.evaluation.evaluator import EvaluationSettings
    from moetrace.tracer.evaluation.tasks import open_task
    from moetrace.tracer.steering.choice import SteeredLanguages

    arms = [Arm(one.name, INTERVENTION, SteeredLanguages(one)) for one in steps]
    settings = EvaluationSettings(engine=EngineSettings(dtype="float32", max_model_len=512, profiles=False))

    def controls(evaluator: Evaluator, store: str, run: str) -> list[Arm]:
        from moetrace.analytics.database.connection import connect
        from moetrace.analytics.evaluation.controls import controlled_in

        with connect(store) as connection:
            made = controlled_in(
                connection, run, evaluator.facts.moe_layers, evaluator.facts.num_experts, evaluator.fits
            )
        return [
            arm.controlled(control, draw, partial(made.control, control, draw))
            for arm in arms
            for control in CONTROLS
            for draw in range(1 if control == "outside" else DRAWS)
        ]

    return evaluate(str(MODEL), open_task(str(task)), arms, controls=controls, settings=settings)


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="Write the raw results here.")
@click.option("--from", "source", type=click.Path(exists=True, path_type=Path), help="Only print these results.")
def main(data: Path | None, output: Path | None, results: Path | None, source: Path | None) -> None:
    """Steer the bundled model and print what came out."""
    if source is not None:
        found = json.loads(source.read_text(encoding="utf-8"))
    elif data is None or output is None:
        raise click.UsageError("give --data and -o, or --from")
    else:
        output.mkdir(parents=True, exist_ok=True)
        found = experiment(data, output)
        results = results or output / "results.json"
        results.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(tables(found))


main()

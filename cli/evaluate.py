"""`moetrace evaluate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.interventions import SaidInterventions, interventions
from moetrace.cli.options import corpus_selection, engine_options, output, prompting
from moetrace.cli.terminal import json_document, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moetrace.analytics.evaluation.results import Results
    from moetrace.tracer.evaluation.arms import Arm
    from moetrace.tracer.evaluation.evaluate import Checkpoint
    from moetrace.tracer.evaluation.evaluator import Evaluator, Outcome
    from moetrace.tracer.plan.prompts import PromptSettings

CONTROLS = ("random", "load", "outside")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Measure what interventions, trained experts or another model do to a task.")
@click.argument("model")
@click.option(
    "--task", "spec", required=True, metavar="SPEC", help="As --corpus of trace; its rows have choices or answers too."
)
@interventions
@click.option("--experts", multiple=True, type=FILE, metavar="FILE", help="MODEL with these trained experts; repeat.")
@click.option("--model", "others", multiple=True, metavar="MODEL2", help="Another model or checkpoint; repeat.")
@click.option(
    "--control",
    "controls",
    multiple=True,
    type=click.Choice(CONTROLS),
    help="Which controls of an intervention; repeat.  [default: all three]",
)
@click.option("--no-controls", is_flag=True, help="Interventions alone.")
@click.option(
    "--draws", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Of random and load."
)
@click.option("--delimiter", default=" ", metavar="TEXT", help="Between a prompt and a choice.  [default: a space]")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="How far the model writes before its number is read.",
)
@click.option("--stop", "stops", multiple=True, metavar="TEXT", help="Where what it wrote ends; repeat.")
@prompting
@corpus_selection
@click.option(
    "--replicates", type=click.IntRange(min=2), default=1000, show_default=True, metavar="N", help="Of the bootstrap."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option("--trace", "store", metavar="DIR|URL", help="Keep the routing here, a run for each but the controls.")
@click.option(
    "--run", default="evaluate", show_default=True, metavar="NAME", help="What the names of those runs begin with."
)
@click.option("--scores", type=FILE, metavar="CSV", help="Write MODEL's score in each language, for sql --scores.")
@click.option("--items", type=FILE, metavar="JSONL", help="Write how every item came out.")
@click.option("--format", "file_format", type=click.Choice(["table", "json"]), default="table", show_default=True)
@output("Write the results here.  [default: standard output]")
@engine_options
def evaluate(
    model: str,
    spec: str,
    said: SaidInterventions,
    experts: tuple[Path, ...],
    others: tuple[str, ...],
    controls: tuple[str, ...],
    no_controls: bool,
    draws: int,
    delimiter: str,
    max_new_tokens: int,
    stops: tuple[str, ...],
    prompt: PromptSettings,
    languages: tuple[str, ...],
    limit: int | None,
    text_template: str | None,
    id_template: str | None,
    sample: int | None,
    sample_seed: int,
    replicates: int,
    seed: int,
    store: str | None,
    run: str,
    scores: Path | None,
    items: Path | None,
    file_format: str,
    output: Path | None,
    engine: dict[str, Any],
    revision: str | None,
) -> None:
    """Ask MODEL (a local folder, a hub id, or `bundled`) the items of a task, as it is and under interventions.

    Multiple choice by log-likelihood a character, a number by what the model writes, or bits a byte of texts alone:
    the task's columns say which. Every difference comes with an interval over items, every intervention with
    controls: the same done to random experts of the same layers, to others of the same load, and in other layers.

    \b
    moetrace evaluate bundled --task bundled --lang swh_Latn --intervention mask.json --mode soft --lambda 0.5
    moetrace evaluate Qwen/Qwen3-30B-A3B --task hf:facebook/belebele --intervention x.json --scores belebele.csv
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.evaluation.results import results_of
    from moetrace.cli.progress import TraceBar
    from moetrace.tracer.bundled import named_corpus, named_model
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.evaluation.arms import INTERVENTION, Arm
    from moetrace.tracer.evaluation.evaluate import evaluate as run_evaluation
    from moetrace.tracer.evaluation.evaluator import EvaluationSettings
    from moetrace.tracer.evaluation.tasks import open_task

    if no_controls and controls:
        raise click.UsageError("--control and --no-controls: say one of them")
    wanted = () if no_controls else controls or CONTROLS
    arms = [Arm(name, INTERVENTION, regime) for name, regime in said.regimes().items()]
    task = open_task(named_corpus(spec), text_template=text_template, id_template=id_template)
    task = task.chosen(languages, limit=limit, sample=sample, sample_seed=sample_seed)
    settings = EvaluationSettings(
        delimiter=delimiter,
        max_new_tokens=max_new_tokens,
        stops=stops,
        prompt=prompt,
        engine=EngineSettings(**engine, profiles=store is not None),
    )
    with TraceBar() as progress:
        found = run_evaluation(
            named_model(model),
            task,
            arms,
            _checkpoints(experts, others),
            controls=(lambda evaluator, traced, run: _controls(evaluator, arms, traced, run, wanted, draws))
            if wanted
            else None,
            revision=revision,
            settings=settings,
            store=store,
            run=run,
            progress=progress,
        )
    results = results_of(
        [vars(one) for one in found.outcomes],
        [arm.record() for arm in found.arms],
        task.kind,
        {
            "model": found.model,
            "task": {
                "name": spec.rstrip("/").rpartition("/")[2],
                "kind": task.kind,
                "languages": list(task.corpus.languages),
                "selection": {**task.corpus.selection, **({"limit": limit} if limit else {})},
            },
            "settings": {**settings.record(), "replicates": replicates, "seed": seed},
        },
        replicates=replicates,
        seed=seed,
    )
    _write(results, found.outcomes, file_format, output, scores, items)


def _checkpoints(experts: Sequence[Path], others: Sequence[str]) -> list[Checkpoint]:
    """Return what is evaluated beside the model; `experts.safetensors` is called by its folder."""
    from moetrace.tracer.bundled import named_model
    from moetrace.tracer.evaluation.arms import EXPERTS, MODEL
    from moetrace.tracer.evaluation.evaluate import Checkpoint

    found = []
    if experts:
        from moetrace.tracer.training.requirements import require_train

        require_train()
    for file in experts:
        if not file.is_file():
            raise click.UsageError(
                f"--experts {file}: there is no such file; give the experts.safetensors of a training"
            )
        name = file.absolute().parent.name if file.stem == "experts" else file.stem
        found.append(Checkpoint(name, EXPERTS, str(file)))
    return [*found, *(Checkpoint(other.rstrip("/").rpartition("/")[2], MODEL, named_model(other)) for other in others)]


def _controls(
    evaluator: Evaluator, arms: Sequence[Arm], store: str, run: str, wanted: Sequence[str], draws: int
) -> list[Arm]:
    """Return the controls of every intervention, from the load that experts have where nobody steers."""
    from moetrace.analytics.database.connection import connect
    from moetrace.analytics.evaluation.controls import controlled_in

    facts = evaluator.facts
    with connect(store) as connection:
        controlled = controlled_in(connection, run, facts.moe_layers, facts.num_experts, evaluator.fits)
    found = []
    for arm in arms:
        for control in wanted:
            if not all(controlled.possible(control, one) for one in arm.steered.interventions):
                click.echo(f"{printable(arm.name)}: it leaves too few layers alone for the control {control}", err=True)
                continue
            found += [
                arm.controlled(control, draw, partial(controlled.control, control, draw))
                for draw in range(1 if control == "outside" else draws)
            ]
    return found


def _write(
    results: Results,
    outcomes: Sequence[Outcome],
    file_format: str,
    output: Path | None,
    scores: Path | None,
    items: Path | None,
) -> None:
    import json

    from moetrace.cli.table import aligned
    from moetrace.store.output import write_text
    from moetrace.tracer.evaluation.evaluate import NONE

    if results.cut:
        click.echo(f"{results.cut} prompts are longer than the window and lost their beginning", err=True)
    text = json_document(results.record()) if file_format == "json" else aligned(*results.rows())
    if output is None:
        click.echo(text)
    else:
        write_text(output, f"{text}\n")
    if scores is not None:
        write_text(scores, results.language_scores(NONE).write_csv())
    if items is not None:
        rows = ({"arm": one.arm, "lang": one.lang, "id": one.id, **one.said} for one in outcomes)
        write_text(items, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))

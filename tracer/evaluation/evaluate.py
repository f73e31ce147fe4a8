"""A whole evaluation: a model as it is, its interventions with their controls, then what else it is compared with."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.store.format.layout import FORMAT, checked_run
from moetrace.store.read.reader import Store
from moetrace.store.storage.open import open_storage
from moetrace.tracer.evaluation.arms import BASELINE, CONTROL, MODEL, Arm
from moetrace.tracer.evaluation.evaluator import EvaluationSettings, Evaluator, Outcome
from moetrace.tracer.evaluation.tasks import NUMBER
from moetrace.tracer.model.record import model_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from moetrace.tracer.evaluation.tasks import Task
    from moetrace.tracer.runs.progress import TraceProgress

    # From the engine's model, and a store and a run of it in which the task was traced unsteered, to further arms.
    Controls = Callable[[Evaluator, str, str], list[Arm]]

NONE = "none"  # the name of the baseline


@dataclass(frozen=True)
class Checkpoint:
    """What is evaluated beside the model: trained experts of it (kind experts), or another model (kind model).

    where: the experts' file, or the other model's folder or hub id
    """

    name: str
    kind: str
    where: str

    @property
    def arm(self) -> Arm:
        """Return the arm of it."""
        return Arm(self.name, self.kind)


@dataclass(frozen=True)
class Evaluated:
    """Every arm, how every item came out under each, and the model as run records describe it."""

    arms: list[Arm]
    outcomes: list[Outcome]
    model: dict[str, Any]


def evaluate(
    model: str,
    task: Task,
    interventions: Sequence[Arm] = (),
    checkpoints: Sequence[Checkpoint] = (),
    *,
    controls: Controls | None = None,
    revision: str | None = None,
    settings: EvaluationSettings,
    store: str | Path | None = None,
    run: str = "evaluate",
    progress: TraceProgress | None = None,
) -> Evaluated:
    """Ask a model every item of a task as it is (arm `none`), under interventions, under their controls, and others.

    controls: makes the control arms once the task was traced unsteered, which says what load each expert has
    store: where the routing of each arm but the controls is kept, in run `RUN-ARM`

    Raises MoetraceError for two arms of one name, a run that is there already, an intervention that is not for the
    model or would do nothing, experts that are not of the model, and as `Evaluator` does.
    """
    if store is not None:
        _check_new(store, [f"{run}-{name}" for name in _names(interventions, checkpoints)])
    _check_arms(task, interventions, checkpoints)
    with tempfile.TemporaryDirectory(prefix="moetrace-") as folder:
        scratch = Path(folder)

        def kept(arm: Arm) -> tuple[str | Path, str] | None:
            return None if store is None or arm.kind == CONTROL else (store, f"{run}-{arm.name}")

        arms, outcomes = [Arm(NONE, BASELINE), *interventions], list[Outcome]()
        with Evaluator(model, revision=revision, settings=settings, progress=progress) as evaluator:
            for arm in interventions:
                evaluator.check(arm)
            # What cannot be evaluated is found out before anything is asked.
            places = [one.where if one.kind == MODEL else _merged(model, revision, one, scratch) for one in checkpoints]
            beside = [Evaluator(place, settings=settings, progress=progress) for place in places]
            # Without a store the baseline alone is traced, where controls need the load of experts.
            wanted = controls if interventions else None
            traced = kept(arms[0]) or ((scratch / "store", NONE) if wanted else None)
            outcomes += evaluator.run(arms[0], task, record=traced)
            if wanted and traced:
                arms += wanted(evaluator, *map(str, traced))
            for arm in arms[1:]:
                outcomes += evaluator.run(arm, task, record=kept(arm))
            described = model_record(evaluator.facts, None)
        for one, other in zip(checkpoints, beside, strict=True):
            with other:
                outcomes += other.run(one.arm, task, record=kept(one.arm))
        return Evaluated([*arms, *(one.arm for one in checkpoints)], outcomes, described)


def _names(interventions: Sequence[Arm], checkpoints: Sequence[Checkpoint]) -> list[str]:
    return [NONE, *(arm.name for arm in interventions), *(one.name for one in checkpoints)]


def _check_arms(task: Task, interventions: Sequence[Arm], checkpoints: Sequence[Checkpoint]) -> None:
    names = _names(interventions, checkpoints)
    for name in names:
        if names.count(name) > 1:
            raise MoetraceError(f"two things to evaluate are called {name}; rename one")
    for arm in interventions:
        arm.steered.check_languages(task.corpus.languages)
        for one in arm.steered.interventions:
            if one.scope == "generated" and task.kind != NUMBER:
                raise MoetraceError(
                    f"intervention {one.name}: it steers generated tokens, and nothing is generated in this task "
                    "(choices and texts are prompts); --scope all"
                )


def _check_new(store: str | Path, runs: Sequence[str]) -> None:
    for run in runs:
        checked_run(run)
    if open_storage(store).has(FORMAT):
        there = Store(store).runs
        for run in runs:
            if run in there:
                raise MoetraceError(f"{store}: run {run} is there already; name other runs with --run")


def _merged(model: str, revision: str | None, experts: Checkpoint, scratch: Path) -> str:
    from moetrace.tracer.training.merging import merge  # noqa: PLC0415  torch and transformers, where they are needed

    place = scratch / experts.name
    merge(model, experts.where, place, revision=revision)
    return str(place)

"""What a person sees while a corpus is traced, a trace imported, a mask trained: stages, a bar, the time left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from moetrace.cli.terminal import is_quiet, printable
from moetrace.store.progress import Progress
from moetrace.tracer.runs.progress import TraceProgress
from moetrace.tracer.training.progress import TrainingProgress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from rich.progress import Task, TaskID

    from moetrace.store.format.records import CommitRecord
    from moetrace.tracer.plan.plan import PlanSummary


class RateColumn(TextColumn):
    """Tokens a second, measured over the last seconds."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before there is one."""
        return Text(f"{task.speed:,.0f} tokens/s" if task.speed else "- tokens/s", style="progress.data.speed")


class OneBar(Progress):
    """A bar on stderr between what is being done and the time left; `columns` stand in between."""

    def __init__(self, description: str, *columns: ProgressColumn, **fields: Any) -> None:
        self.console = Console(stderr=True, quiet=is_quiet())
        self._bar = Bars(
            TextColumn("{task.description}", style="progress.description", markup=False),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(description, total=None, visible=False, **fields)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        self._bar.advance(self._task, count)


class TraceBar(OneBar, TraceProgress):
    """Shows a trace on the terminal; where stderr is no terminal, one line a stage."""

    def __init__(self) -> None:
        super().__init__("tracing", MofNCompleteColumn(), RateColumn())
        self._workers: dict[int, TaskID] = {}

    def stage(self, message: str, total: int | None = None) -> None:  # noqa: ARG002  the bar begins with the plan
        """Say what is being done now."""
        self._bar.console.print(Text(printable(message), style="dim"))

    def planned(self, plan: PlanSummary, skipped_tokens: int) -> None:
        """Say what there is to do, what is missing or cut, and how much the store has already."""
        self._say(
            f"{len(plan.languages)} languages, {plan.texts:,} texts, {plan.tokens:,} tokens in {plan.shards:,} shards"
        )
        for lang, count in plan.missing.items():
            self._say(f"{lang} lacks {count} of the texts that other languages have", "yellow")
        if plan.truncated:
            self._say(f"{plan.truncated} texts are longer than the model's window and were truncated", "yellow")
        if plan.pivot is None:
            self._say("no English in the corpus: name a pivot with --pivot to get pivot_similarity", "yellow")
        if skipped_tokens:
            self._say(f"the store has {skipped_tokens:,} of these tokens already; they are skipped")
        self._bar.update(self._task, total=plan.tokens, completed=skipped_tokens, visible=True)

    def committed(self, commit: CommitRecord) -> None:
        """Name the language under way next to the bar."""
        self._bar.update(self._task, description=f"tracing {printable(commit.lang)}")

    def workers(self, states: Mapping[int, tuple[str, int]]) -> None:
        """Show a line for each worker under the bar: what it does, and its shards."""
        for number, (doing, shards) in sorted(states.items()):
            if number not in self._workers:
                self._workers[number] = self._bar.add_task("", total=None)
            said = f"worker {number}: {printable(doing)}, {shards} shards"
            self._bar.update(self._workers[number], description=said)

    def _say(self, message: str, style: str = "") -> None:
        self._bar.console.print(Text(printable(message), style=style))


class ImportBar(OneBar):
    """Shows an import on the terminal, bytes read of those there are; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        super().__init__("importing", DownloadColumn(), TransferSpeedColumn())

    def stage(self, message: str, total: int | None = None) -> None:
        """Begin a bar for what is being done from now on."""
        self._bar.reset(self._task, description=message, total=total, visible=True)

    def committed(self, commit: CommitRecord) -> None:
        """Name the language under way next to the bar."""
        self._bar.update(self._task, description=f"importing {printable(commit.lang)}")


class TrainingBar(OneBar, TrainingProgress):
    """Shows a training on the terminal: what is done now, steps, time left, the loss; a line a stage elsewhere."""

    def __init__(self) -> None:
        loss = TextColumn("{task.fields[loss]}", style="progress.data.speed")
        super().__init__("training", MofNCompleteColumn(), loss, loss="")

    def stage(self, message: str, total: int | None = None) -> None:
        """Say what is being done now; begin a bar where it has steps."""
        if total is None or self._bar.disable:
            self._bar.console.print(Text(printable(message), style="dim"))
        self._bar.reset(self._task, description=message, total=total, visible=total is not None, loss="")

    def loss(self, value: float) -> None:
        """Name the training loss next to the bar."""
        self._bar.update(self._task, loss=f"loss {value:.4f}")

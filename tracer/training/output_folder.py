"""The folder that a training writes: what is in it when, so that nothing is overwritten and what stopped goes on."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from moetrace.store.mask import mask_text
from moetrace.store.output import write_text
from moetrace.tracer.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EXPERTS_FILE, RESULTS_FILE, SETTINGS_FILE, MASK_FILE = (
    "experts.safetensors",
    "results.json",
    "settings.json",
    "mask.json",
)
BEFORE_FILE, CHECKPOINTS, WHOLE_MODEL = "before.json", "checkpoints", "model"


class OutputFolder:
    """The output folder: what is in it when, so that nothing is overwritten and an interrupted training goes on."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Name the folder, and what must be the same for a training in it to go on where it stopped."""
        self.path = path
        self._identity = json.loads(json.dumps(identity))

    def check(self, *, resume: bool) -> None:
        """Raise TrainingError where the folder has what is not to be overwritten, or was begun in another way."""
        if (self.path / RESULTS_FILE).exists():
            raise TrainingError(f"{self.path}: a finished training is there; choose another folder with -o")
        settings = self.path / SETTINGS_FILE
        if not settings.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise TrainingError(f"{self.path}: the folder is not empty; choose another with -o")
            return
        if not resume:
            raise TrainingError(f"{self.path}: a training was begun there; --resume goes on with it")
        there, now = _read_json(settings), self._identity
        for name in sorted({*there, *now}):
            if there.get(name) != now.get(name):
                raise TrainingError(
                    f"{self.path}: cannot resume, {name} was {_short(there.get(name))} and is now "
                    f"{_short(now.get(name))}"
                )

    def begin(self, mask: Mapping[str, Any] | None) -> None:
        """Make the folder and write the settings, which say that a training is there, and the mask.

        Raises TrainingError where the folder cannot be made, as all that writes here raises OutputError.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{self.path}: cannot be made ({error.strerror or error})") from error
        write_text(self.path / SETTINGS_FILE, json.dumps(self._identity, indent=1) + "\n")
        if mask is not None:
            write_text(self.path / MASK_FILE, mask_text(mask))

    def before(self) -> dict[str, float] | None:
        """Return the losses before training, where they were measured already."""
        file = self.path / BEFORE_FILE
        found: dict[str, float] | None = _read_json(file) if file.exists() else None
        return found

    def keep_before(self, losses: Mapping[str, float]) -> None:
        """Keep the losses before training: a resumed training cannot measure them again."""
        write_text(self.path / BEFORE_FILE, json.dumps(losses, indent=1) + "\n")

    def last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that is whole: its state is what is written last."""
        for folder in sorted((self.path / CHECKPOINTS).glob("checkpoint-*"), key=_step, reverse=True):
            try:
                json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                shutil.rmtree(folder)
                continue
            return folder
        return None

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results; from then on the training is finished, and what it was resumed from is removed."""
        document = {"settings": _read_json(self.path / SETTINGS_FILE), **results}
        write_text(self.path / RESULTS_FILE, json.dumps(document, indent=1) + "\n")
        (self.path / BEFORE_FILE).unlink()
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file}: cannot be read ({error}); remove {file.parent} and train again") from error

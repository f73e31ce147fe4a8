"""The options that say what is done to which experts, of every command that steers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.options import FINITE

if TYPE_CHECKING:
    from collections.abc import Callable

    from moetrace.store.intervention import Intervention
    from moetrace.tracer.steering.choice import SteeredLanguages

BY_LANGUAGE = "by-language"
OPTIONS = (
    click.option(
        "--intervention",
        "files",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="An intervention, or a mask with --mode; may be repeated: one after the other.",
    ),
    click.option("--by-language", multiple=True, metavar="L=FILE", help="The intervention of one language; repeat."),
    click.option(
        "--mode", type=click.Choice(["promote", "suppress", "soft", "scale"]), help="What is done to a mask's experts."
    ),
    click.option("--lambda", "strength", type=FINITE, metavar="F", help="Strength of a mask's soft or scale."),
    click.option(
        "--scope",
        type=click.Choice(["all", "prompt", "generated"]),
        help="Which tokens.  [default: the file's, or all]",
    ),
    click.option("--layers", metavar="LAYERS", help="Only experts of these layers, as 4-9 or 4,5,8."),
)


@dataclass(frozen=True)
class SaidInterventions:
    """What a person said of interventions: files and languages, and how masks among the files are read."""

    files: tuple[Path, ...]
    by_language: tuple[str, ...]
    mode: str | None
    strength: float | None
    scope: str | None
    layers: str | None

    def regimes(self) -> dict[str, SteeredLanguages]:
        """Return what languages are under, regime after regime, by its name: none where nothing was said.

        Raises InterventionError or MaskError for a file that is none, UsageError for what contradicts itself.
        """
        from moetrace.tracer.steering.attach import check_names
        from moetrace.tracer.steering.choice import SteeredLanguages

        layers = _numbers_of_layers(self.layers)
        named: dict[str, Intervention] = {}
        for said in self.by_language:
            lang, equals, file = said.partition("=")
            if not (lang and equals and file):
                raise click.UsageError(f"--by-language {said}: say a language and a file, as swh_Latn=x.json")
            if lang in named:
                raise click.UsageError(f"--by-language: {lang} has two interventions")
            named[lang] = self._read(Path(file), layers)
        if named and len(self.files) > 1:
            raise click.UsageError("with --by-language, one --intervention at most: it is for the languages not named")
        found = [self._read(file, layers) for file in self.files]
        check_names([one.name for one in found], None)
        if named:
            return {BY_LANGUAGE: SteeredLanguages(found[0] if found else None, named)}
        return {one.name: SteeredLanguages(one) for one in found}

    def _read(self, file: Path, layers: list[int] | None) -> Intervention:
        from moetrace.store.intervention import read_intervention

        return read_intervention(file, mode=self.mode, strength=self.strength, scope=self.scope, layers=layers)


def interventions(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of interventions; the command gets what was said as `said`."""

    @wraps(command)
    def with_said(
        *args: Any,
        files: tuple[Path, ...],
        by_language: tuple[str, ...],
        mode: str | None,
        strength: float | None,
        scope: str | None,
        layers: str | None,
        **options: Any,
    ) -> Any:
        return command(*args, said=SaidInterventions(files, by_language, mode, strength, scope, layers), **options)

    found: Any = with_said
    for option in reversed(OPTIONS):
        found = option(found)
    return found  # type: ignore[no-any-return]


def _numbers_of_layers(said: str | None) -> list[int] | None:
    """Return the numbers of layers that are said as 4-9 or 4,5,8."""
    if said is None:
        return None
    found: list[int] = []
    for part in said.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()) or len(part) > 11:
            raise click.UsageError(f"--layers {said}: say numbers of layers, as 4-9 or 4,5,8")
        found += range(int(first), int(last or first) + 1)
    return found

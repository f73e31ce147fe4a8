"""Which intervention the texts of each language are under, in a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from moetrace.store.intervention import Intervention


@dataclass(frozen=True)
class SteeredLanguages:
    """The intervention of each language: its own of `by_language`, else `default`; None is none."""

    default: Intervention | None = None
    by_language: Mapping[str, Intervention] = field(default_factory=dict)

    def of(self, lang: str) -> Intervention | None:
        """Return the intervention of a language; None where nothing is done to its texts."""
        found = self.by_language.get(lang, self.default)
        return found if found is not None and found.cells else None

    def digest(self, lang: str) -> str | None:
        """Return the digest of a language's intervention, None where nothing is done to its texts."""
        found = self.of(lang)
        return None if found is None else found.digest

    @property
    def interventions(self) -> list[Intervention]:
        """Return every intervention that does something, each once."""
        every = [self.default, *self.by_language.values()]
        return list({one.digest: one for one in every if one is not None and one.cells}.values())

    def check_languages(self, languages: Collection[str]) -> None:
        """Raise MoetraceError where a language is steered that is not among the corpus's."""
        for lang in self.by_language:
            if lang not in languages:
                raise MoetraceError(f"--by-language {lang}: the corpus has {', '.join(sorted(languages))}")

    def record(self) -> dict[str, Any]:
        """Return what the run record keeps: names and digests, the default's under ''."""
        named = {**({} if self.default is None else {"": self.default}), **self.by_language}
        return {lang: {"name": one.name, "sha256": one.digest, "scope": one.scope} for lang, one in named.items()}

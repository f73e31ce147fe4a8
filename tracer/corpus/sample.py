"""A sample of a parallel corpus: ids that all languages have, the same in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import MoetraceError
from moetrace.tracer.corpus.ids import DigestSet, IdDigests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy.typing as npt

    from moetrace.tracer.corpus.fields import Text


@dataclass(frozen=True)
class Chosen:
    """The ids of a sample, as digests: uint64 [ids], sorted."""

    digests: npt.NDArray[np.uint64]
    seed: int

    def of(self, texts: Iterable[Text]) -> Iterator[Text]:
        """Yield the texts that were chosen, in the order in which they come."""
        ids = IdDigests(self.seed)
        last = int(self.digests[-1])
        for text in texts:
            digest = ids.digest(text.id)
            if digest <= last and self._has(digest):
                yield text

    def _has(self, digest: int) -> bool:
        wanted = np.uint64(digest)  # a plain int would be compared as float64, which is not exact
        return bool(self.digests[np.searchsorted(self.digests, wanted)] == wanted)


def draw(source: str, languages: Mapping[str, Callable[[], Iterator[Text]]], count: int, seed: int) -> Chosen:
    """Draw `count` of the ids that all languages have: those whose digests under the seed come first.

    Raises MoetraceError where they share fewer ids.
    """
    common: DigestSet | None = None
    sizes: dict[str, int] = {}
    for lang in languages:
        ids = IdDigests(seed)
        for text in languages[lang]():
            ids.add(text.id)
        sizes[lang] = len(ids)
        mine = DigestSet(ids.blocks())
        common = mine if common is None else common.intersection(mine)
    if common is None or len(common) < count:
        shared, fewest = 0 if common is None else len(common), min(sizes, key=lambda lang: (sizes[lang], lang))
        raise MoetraceError(
            f"--sample {count}: the {len(sizes)} languages of {source} share {shared} ids ({fewest} has the fewest "
            f"texts: {sizes[fewest]}); ask for at most {shared}, or leave languages out with --lang"
        )
    return Chosen(common.first(count), seed)

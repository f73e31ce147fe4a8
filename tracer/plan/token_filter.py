"""Which tokens of a text a trace leaves out. NumPy only: the worker uses it beside the model, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class TokenFilter:
    """What is left out of every table of a trace, and of the mean of a text's profile.

    - prompt_only: tokens that the model generated itself
    - skip_positions: positions of a text below it
    - special: token ids that are left out wherever they stand
    """

    prompt_only: bool = False
    skip_positions: int = 0
    special: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether any token can be left out."""
        return self.prompt_only or self.skip_positions > 0 or bool(self.special)

    def keeps_position(
        self, positions: npt.NDArray[np.integer], prompts: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.bool_]:
        """Tell of tokens, bool [n], whether their position is kept, whatever their id.

        positions: of each in its text; prompts: the tokens of its text that the model did not generate; both [n]
        """
        kept = positions >= self.skip_positions
        return kept & (positions < prompts) if self.prompt_only else kept

    def keeps(
        self,
        positions: npt.NDArray[np.integer],
        prompts: npt.NDArray[np.integer],
        token_ids: npt.NDArray[np.integer],
    ) -> npt.NDArray[np.bool_]:
        """Tell of tokens, bool [n], whether they are kept; all arguments are [n], see `keeps_position`."""
        kept = self.keeps_position(positions, prompts)
        return kept & ~np.isin(token_ids, self.special) if self.special else kept

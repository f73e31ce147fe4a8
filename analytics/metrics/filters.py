"""Which tokens a metric counts: arguments that every metric made of counts takes."""

from __future__ import annotations

from typing import TypedDict


class Filters(TypedDict, total=False):
    """What to leave out, nothing by default; counts are then made of routes, which takes reading them.

    - prompt_only: whether to leave out tokens that the model generated
    - skip_positions: how many tokens at the beginning of each text to leave out, from 0
    - skip_special: whether to leave out the run's special tokens; QueryError where the run does not say which they are
    - shared_texts: whether to leave out texts whose id not every compared language of the run has; QueryError where the
      run's text ids do not mean the same text in every language
    """

    prompt_only: bool
    skip_positions: int
    skip_special: bool
    shared_texts: bool

"""Worlds without some of their tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tests.support.stores import World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.stores import Text


def kept(
    world: World,
    languages: Sequence[str] | None = None,
    *,
    prompt_only: bool = False,
    skip_positions: int = 0,
    skip_special: bool = False,
    shared_texts: bool = False,
) -> World:
    """Return a world of the tokens that are kept; texts and languages without any are gone.

    Shared texts are those that each of `languages` has (all where None); of the other languages they are kept too.
    """
    compared = [lang for lang in world.texts if languages is None or lang in languages]
    ids = [{text.text_id for text in world.texts[lang]} for lang in compared]
    shared = set.intersection(*ids) if ids else set()
    special = world.record.special_token_ids if skip_special else []
    assert special is not None
    texts: dict[str, list[Text]] = {}
    for lang, whole in world.texts.items():
        for text in whole:
            if shared_texts and text.text_id not in shared:
                continue
            position = np.arange(len(text.token_ids))
            rows = (position >= skip_positions) & ~np.isin(text.token_ids, special)
            if prompt_only:
                rows &= position < len(position) - text.generated
            if rows.any():
                cut = replace(
                    text, token_ids=text.token_ids[rows], experts=text.experts[rows], weights=text.weights[rows]
                )
                texts.setdefault(lang, []).append(cut)
    return World(world.record, texts)

"""A filter keeps exactly the tokens that its settings do not leave out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.tracer.plan.token_filter import TokenFilter
from tests.support.examples import examples


@given(
    st.booleans(),
    st.integers(0, 4),
    st.sets(st.integers(0, 5)),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(0, 5)), max_size=30),
)
@examples(60)
def test_a_token_is_kept_where_no_setting_leaves_it_out(
    prompt_only: bool,  # noqa: FBT001  a drawn value
    skip: int,
    special: set[int],
    tokens: list[tuple[int, int, int]],
) -> None:
    made = TokenFilter(prompt_only, skip, tuple(special))
    expected = []
    for position, prompt, token_id in tokens:
        generated = position >= prompt
        expected.append(not (prompt_only and generated) and position >= skip and token_id not in special)
    position, prompt, token_id = np.array(tokens, dtype=np.int64).reshape(-1, 3).T
    assert made.keeps(position, prompt, token_id).tolist() == expected


@pytest.mark.parametrize(
    "made", [TokenFilter(prompt_only=True), TokenFilter(skip_positions=1), TokenFilter(special=(0,))]
)
def test_a_filter_that_leaves_nothing_out_is_none(made: TokenFilter) -> None:
    assert made
    assert not TokenFilter()

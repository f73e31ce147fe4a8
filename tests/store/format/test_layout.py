"""No name of a run or a language leads out of the store."""

from __future__ import annotations

import pytest

from moetrace.store.errors import StoreError
from moetrace.store.format.layout import checked_language, checked_run


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".", "a b", "x" * 65, "-x", "ä"])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="language code"):
        checked_language(name)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", ".hidden"])
def test_run_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="run name"):
        checked_run(name)

"""The vocabulary that languages share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics import metrics
from tests.support.stores import make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path


def test_a_language_of_unknown_token_ids_has_no_vocabulary(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(15)])
    whole = metrics.vocabulary_overlap(opened)
    opened.execute(
        "create or replace view tokens as select * replace (if(lang = 'deu_Latn', null, token_id) as token_id) "
        "from files.tokens"
    )
    known = whole.filter((pl.col("lang_a") != "deu_Latn") & (pl.col("lang_b") != "deu_Latn"))
    assert metrics.vocabulary_overlap(opened).rows() == known.rows()
    assert len(known) == 1

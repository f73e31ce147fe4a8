"""What deaths make of a record of attempts, and what is refused as one."""

from __future__ import annotations

from typing import Any

import pytest

from moetrace.store.errors import StoreError
from moetrace.store.format.attempts_record import TWO_DIED, AttemptsRecord, Part
from moetrace.store.format.sealed import sealed_text

RECORD = AttemptsRecord("run", "eng_Latn", 3, "a" * 64, 0, (Part(0, 5),))


def dying(record: AttemptsRecord, part: int | None) -> AttemptsRecord:
    """Return the record after the death of a process that was trying a part."""
    trying = AttemptsRecord(**{**vars(record), "trying": part})
    return AttemptsRecord.from_json(trying.to_json(), "it").after_death()


def test_only_a_text_that_was_alone_in_two_deaths_is_set_aside() -> None:
    beside_others = dying(RECORD, None)
    assert (beside_others.deaths, beside_others.parts) == (1, (Part(0, 5),))
    alone = dying(beside_others, 0)
    assert alone.parts == (Part(0, 2), Part(2, 3))
    half = dying(alone, 1)
    assert half.parts == (Part(0, 2), Part(2, 1), Part(3, 2))
    once = dying(half, 1)
    assert once.parts == (Part(0, 2), Part(2, 1, deaths=1), Part(3, 2))
    assert dying(once, None).parts == once.parts, "it died at something else"
    twice = dying(once, 1)
    assert twice.parts == (Part(0, 2), Part(2, 1, deaths=2, reason=TWO_DIED), Part(3, 2))
    assert (twice.deaths, twice.trying, twice.texts) == (5, None, 5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"parts": []}, "parts"),
        ({"parts": [{"first": 1, "texts": 4, "deaths": 0, "reason": None}]}, "ends at 0"),
        ({"parts": [{"first": 0, "texts": 0, "deaths": 0, "reason": None}]}, "texts"),
        ({"parts": [{"first": 0, "texts": 2, "deaths": 0, "reason": "both"}]}, "only one is set aside"),
        ({"trying": 1}, "there are 1 parts"),
        ({"deaths": -1}, "deaths"),
        ({"more": 1}, "more"),
        ({"lang": "../eng"}, "lang"),
    ],
)
def test_what_is_no_record_of_attempts_is_refused(fields: dict[str, Any], says: str) -> None:
    content = {**vars(RECORD), "parts": [vars(part) for part in RECORD.parts], **fields}
    with pytest.raises(StoreError, match=rf"it: the record is damaged \(.*{says}"):
        AttemptsRecord.from_json(sealed_text(content), "it")

"""The texts of the experiment: what is adapted to, what rates are chosen on, what is measured.

All are user-interface strings that the bundled model has not seen, but for those of `adapt` in the languages that it
was trained on: they are traced, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.tracer.bundled.training_texts import (
    LOW_RESOURCE_SHARE,
    Text,
    id_fraction,
    is_held_out,
    is_withheld,
    read_corpus,
    write_corpus,
)

if TYPE_CHECKING:
    from pathlib import Path


def parts_of(row: Text) -> list[str]:
    """Return the parts that a text belongs to.

    adapt: the 90 % of a low-resource language that were withheld from the model, and training texts of the others.
    development: a tenth of the withheld texts, and held-out ids of the other languages; rates are chosen on them.
    held-out: ids that no language was trained on; for the low-resource languages all, for the others those that
    development has not.
    """
    low = row.lang in LOW_RESOURCE_SHARE
    if is_held_out(row):
        return ["held-out" if low or id_fraction(row.id, "half") >= 0.5 else "development"]
    if not low:
        return ["adapt"]
    if not is_withheld(row):
        return []  # the model has seen it
    return ["development" if id_fraction(row.id, "development") < 0.1 else "adapt"]


def write_texts(ui_strings: Path, folder: Path) -> None:
    """Write each part as a folder of a file a language, in place of what is there."""
    parts: dict[str, list[Text]] = {}
    for row in read_corpus("ui-strings", ui_strings):
        for part in parts_of(row):
            parts.setdefault(part, []).append(row)
    for part, rows in parts.items():
        write_corpus(rows, folder / part)

"""The world that is resampled, and what a metric is in a world of other texts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moetrace.analytics.uncertainty.statistics import METRICS
from tests.reference import metrics as reference
from tests.support.stores import World, make_record, make_world

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.store.format.records import RunRecord
    from tests.support.stores import Text

WORLD = make_world(1, make_record(languages=("eng_Latn", "deu_Latn", "swh_Latn")), texts=9)
FLOAT32 = ("pivot_similarity", "pivot_excess")  # made of profiles, which are stored as float32
OF_COUNTS = [name for name, metric in METRICS.items() if metric.of_counts]


def tolerance(metric: str) -> float:
    return 1e-6 if metric in FLOAT32 else 1e-9


def values(rows: list[dict[str, Any]], metric: str) -> dict[tuple[Any, ...], float]:
    """Return the values of a metric by layer and keys."""
    keys, column = METRICS[metric].keys, METRICS[metric].column
    return {(row["layer"], *(row[key] for key in keys)): row[column] for row in rows}


def reference_values(
    texts: Mapping[str, Sequence[Text]], metric: str, record: RunRecord = WORLD.record
) -> dict[tuple[Any, ...], float]:
    """Return the values of a metric by layer and keys that the reference makes of some texts."""
    data = reference.routing(World(record, texts))
    return values(reference.METRICS[METRICS[metric].view](data), metric)


def repeated(world: World, times: Mapping[str, int]) -> dict[str, list[Text]]:
    """Return the texts of a world, each as often as its id is drawn."""
    return {
        lang: [replace(text, text_id=f"{text.text_id}-{copy}") for text in found for copy in range(times[text.text_id])]
        for lang, found in world.texts.items()
    }


def text_ids(world: World) -> list[str]:
    return sorted({text.text_id for texts in world.texts.values() for text in texts})

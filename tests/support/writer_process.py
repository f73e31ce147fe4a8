"""A process that writes a run's shards as a trace does, for tests that kill it.

`python -m tests.support.writer_process STORE [SHARDS]`

It claims, writes and commits what nobody has done, and says on stdout when it begins and how many shards it did.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from moetrace.store.write.writer import StoreWriter
from tests.support.stores import make_shard, make_world

if TYPE_CHECKING:
    from moetrace.store.shard.shard import Shard

TEXTS = 3  # of a shard
WORLD = make_world(seed=7, texts=60)


def all_shards(most: int | None = None) -> list[Shard]:
    made = [
        make_shard(WORLD.record, lang, number, start, texts[start : start + TEXTS])
        for lang, texts in WORLD.texts.items()
        for number, start in enumerate(range(0, len(texts), TEXTS))
    ]
    return made[:most]


def write_all(place: str, most: int | None = None) -> int:
    done = 0
    with StoreWriter(place, WORLD.record) as writer:
        for shard in all_shards(most):
            if writer.claim(shard.lang, shard.number):
                writer.write(shard)
                done += 1
    return done


def main(place: str, most: int | None = None) -> None:
    sys.stdout.write("begin\n")
    sys.stdout.flush()
    sys.stdout.write(f"{write_all(place, most)}\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

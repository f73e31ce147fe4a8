"""Every bit of every record of a small store, flipped: an error, or the same answer as before, never another number.

`python -m tests.fuzz.records [--sample N]` flips all of them, or N drawn at random, in store.json, a run record and
its copy, a commit record, a claim, a plan and a compact index. What SQL says follows from the records and from data
files that nothing changes here: queries are asked once of each set of records that a store was opened with.
"""

from __future__ import annotations

import argparse
import pickle
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.store.format import layout
from moetrace.store.read.reader import Store
from moetrace.store.storage.claims import Claims
from moetrace.store.storage.local import LocalStorage
from moetrace.store.verify.verify import verify
from moetrace.store.write.compact import compact
from moetrace.store.write.writer import StoreWriter
from tests.support.answers import QUERIES, answers
from tests.support.stores import make_record, make_shard, make_world

if TYPE_CHECKING:
    from collections.abc import Iterator

EVERY = 97  # flips after which `verify` and the whole of SQL are asked as well


def make_store(path: Path) -> list[str]:
    """Make a store of one run with two languages, compacted; return the paths of its records."""
    record = make_record(languages=("eng_Latn", "swh_Latn"), moe_layers=(1, 2), num_experts=4)
    world = make_world(1, record, texts=3)
    plan = {lang: [(len(texts), sum(len(text.token_ids) for text in texts))] for lang, texts in world.texts.items()}
    writer = StoreWriter(path, record, plan)
    for lang, texts in world.texts.items():
        writer.write(make_shard(record, lang, 0, 0, texts))
    compact(Store(path), record.run)
    Claims(LocalStorage(path), record.run, record.sha256()).take("swh_Latn", 1)
    return [
        layout.FORMAT,
        layout.run_path("run"),
        layout.run_copy_path("run"),
        layout.commit_path("run", "swh_Latn", 0),
        layout.claim_path("run", "swh_Latn", 1),
        layout.plan_path("run"),
        layout.compact_index_path("run"),
    ]


class Flips:
    """Flips bits of a store's records and compares what the store then says."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.records = make_store(self.store)
        self._said: dict[bytes, object] = {}
        self.right = self._answer()
        self.counts = {path: Counter[str]() for path in self.records}
        self.wrong: list[str] = []

    def all_bits(self) -> Iterator[tuple[str, int, int]]:
        """Yield path, byte and bit of every bit of every record."""
        for path in self.records:
            for at in range((self.store / path).stat().st_size):
                for bit in range(8):
                    yield path, at, bit

    def flip(self, path: str, at: int, bit: int, *, whole: bool) -> None:
        """Flip a bit, ask, and flip it back. `whole`: `verify` and SQL are asked as well."""
        file = self.store / path
        content = file.read_bytes()
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        try:
            found = self._answer()
            outcome = "refused" if found is None else "same" if found == self.right else "CHANGED"
            self.counts[path][outcome] += 1
            if outcome == "CHANGED":
                self.wrong.append(f"{path}, byte {at}, bit {bit}: another answer")
            if whole:
                self._ask_all(f"{path}, byte {at}, bit {bit}", path, refused=outcome == "refused")
        finally:
            file.write_bytes(content)

    def _answer(self) -> object:
        """Return what the store says, None where it refuses."""
        try:
            opened = Store(self.store)
            known = pickle.dumps((opened.runs, opened.commits, opened.rollups(), opened.format))
        except MoetraceError as error:
            if "\n" in str(error):
                self.wrong.append(f"an error of several lines: {error!r}")
            return None
        if known not in self._said:
            self._said[known] = {name: answers(self.store, query) for name, query in QUERIES.items()}
        return self._said[known]

    def _ask_all(self, flipped: str, path: str, *, refused: bool) -> None:
        for name, query in QUERIES.items():
            if answers(self.store, query) != (None if refused else self.right[name]):  # type: ignore[index]
                self.wrong.append(f"{flipped}: SQL over {name} says something else")
        try:
            found = bool(verify(self.store).problems)
        except MoetraceError:
            found = True
        if not found and not path.startswith(f"{layout.CLAIMS}/"):
            self.wrong.append(f"{flipped}: verify sees nothing")


def run(folder: Path, sample: int | None, seed: int = 0) -> Flips:
    """Flip every bit, or `sample` of them, each record in proportion."""
    flips = Flips(folder)
    chosen = list(flips.all_bits())
    if sample is not None:
        chosen = random.Random(seed).sample(chosen, sample)  # noqa: S311  it draws bits, not secrets
    for number, (path, at, bit) in enumerate(chosen):
        flips.flip(path, at, bit, whole=number % EVERY == 0)
    return flips


def main() -> int:
    """Flip, and print a table: what came of the bits of each record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="that many flips, drawn at random  [default: all]")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    started = time.monotonic()
    with TemporaryDirectory(prefix="flips-") as folder:
        flips = run(Path(folder), asked.sample, asked.seed)
        shutil.rmtree(flips.store)
    total = Counter[str]()
    sys.stdout.write(f"{'record':<48} {'flips':>7} {'refused':>8} {'same':>7} {'changed':>8}\n")
    for path, counts in (*flips.counts.items(), ("all", total)):
        total.update(counts if path != "all" else ())
        row = (counts.total(), counts["refused"], counts["same"], counts["CHANGED"])
        sys.stdout.write(f"{path:<48} {row[0]:>7,} {row[1]:>8,} {row[2]:>7,} {row[3]:>8,}\n")
    sys.stdout.write(f"{time.monotonic() - started:.0f} s\n")
    for line in flips.wrong:
        sys.stdout.write(f"WRONG {line}\n")
    return 1 if flips.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

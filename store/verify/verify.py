"""Checking a store: every record and every file, and what is in them against what a trace must be."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import StoreError, UnreadableError, as_store_errors
from moetrace.store.format import layout
from moetrace.store.format.plan_record import MOST_OF_A_PLAN, PlanRecord
from moetrace.store.format.schema import FORMAT_VERSION
from moetrace.store.read.catalog import Catalog
from moetrace.store.read.compact_index import OlderIndexError, read_index, without_checksums
from moetrace.store.read.failed import failed_record, require_made_under
from moetrace.store.read.moments import SOURCES, added_moments, moments_in, shard_moments, with_moments
from moetrace.store.read.store_format import SEALED_SINCE, StoreFormat, format_text, read_format
from moetrace.store.read.usage_files import added_up, compacted_rows
from moetrace.store.read.verified import read_verified
from moetrace.store.storage.base import Storage
from moetrace.store.storage.claims import living_claims
from moetrace.store.storage.open import open_storage
from moetrace.store.verify.content import SUM_TOLERANCE
from moetrace.store.verify.repair import carry_out
from moetrace.store.verify.run_records import RunRecords
from moetrace.store.verify.shard import ShardChecker
from moetrace.store.verify.verdict import Problem, Repair, RunProgress, Verdict, first_line, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa

    from moetrace.store.format.records import CommitRecord, RunRecord
    from moetrace.store.read.compact_index import CompactIndex
    from moetrace.store.storage.base import Entry

NAMED = 24  # missing shards that are named
SEALED = StoreFormat(FORMAT_VERSION, FORMAT_VERSION)


def verify(
    place: str | Path | Storage,
    *,
    quick: bool = False,
    repair: bool = False,
    on_shard: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Check every shard of a store; one that is bad does not keep the others from being checked.

    `quick` looks at sizes, footers and schemas only. `repair` does at once what the verdict's `repairs` say, as
    `repair.carry_out` does later. `on_shard` is told how many of how many are done.

    Raises StoreError where there is no store at `place`.
    """
    storage = place if isinstance(place, Storage) else open_storage(place)
    verdict = Verdict()
    with as_store_errors(storage, "read"):
        check = _Check(Catalog(storage, _format(storage, verdict)), verdict, quick=quick)
        check.records()
        check.shards(on_shard)
        check.beside()
    verdict.seen = check.listed
    if repair:
        carry_out(storage, verdict)
    return verdict


def _format(storage: Storage, verdict: Verdict) -> StoreFormat:
    """Return what store.json says, or the run records where it is damaged; raise StoreError where neither does."""
    try:
        return read_format(storage)
    except UnreadableError:
        raise
    except StoreError as error:
        if not _proven(storage) or "upgrade moetrace" in str(error):
            raise
        what = first_line(error).removeprefix(f"{storage}: ").removeprefix(f"{layout.FORMAT}: ")
        verdict.problems.append(Problem(layout.FORMAT, what))
        verdict.repairs.append(_written_again(storage))
        return SEALED


def _proven(storage: Storage) -> bool:
    """Tell whether the run records prove the format version: each has a checksum, and there is one."""
    try:
        return bool(Catalog(storage, SEALED).runs)
    except StoreError:
        return False


def _written_again(storage: Storage) -> Repair:
    moves = {layout.FORMAT: "is damaged"} if storage.has(layout.FORMAT) else {}
    says = f"{layout.FORMAT}: is written again, as the records prove it"
    return Repair(says, moves, {layout.FORMAT: format_text().encode()})


class _WrongSumsError(StoreError):
    """Compacted roll-ups are as they were written, and wrong."""


class _Check:
    """One look at a store, and what it finds."""

    def __init__(self, catalog: Catalog, verdict: Verdict, *, quick: bool) -> None:
        self._catalog, self._storage, self._verdict, self._quick = catalog, catalog.storage, verdict, quick
        self.listed: dict[str, Entry] = {}
        self._commits: dict[str, CommitRecord] = {}
        self._unread: dict[str, Problem] = {}
        self._named: set[str] = set()
        self._unsure: set[str] = set()
        for entry in self._storage.entries():
            self._see(entry)

    def _see(self, entry: Entry) -> None:
        """Take a file in, as one of the store, or as something that no store has."""
        top = entry.path.split("/", 1)[0]
        place = layout.place_of(entry.path)
        if entry.strange and top != layout.STAGING:
            what = f"is {entry.strange}, and a store has none: put in its place what belongs there, or remove it"
            self._verdict.problems.append(Problem(entry.path, what))
        elif place is not None:
            if place.kind != layout.QUARANTINE:
                self.listed[entry.path] = entry
        elif top in {layout.RUNS, layout.COMMITS} and not layout.is_hidden(entry.path):
            what = "has no name that a record has: move it out of the store, or give it back the name it had"
            self._verdict.problems.append(Problem(entry.path, what))
        elif top != layout.STAGING:
            self._verdict.ignored.append(entry.path)

    def records(self) -> None:
        """Read every commit record, then the run records."""
        runs = set[str]()
        for path in self.listed:
            place = layout.place_of(path)
            if place is None or place.run is None or place.kind not in {layout.RUNS, layout.COMMITS}:
                continue
            runs.add(place.run)
            if place.shard is None:
                continue
            try:
                self._commits[path] = self._catalog.commit_record(path, self._storage.read(path))
            except FileNotFoundError:
                continue  # taken out since the listing
            except (StoreError, OSError) as error:
                said = first_line(error).removeprefix(f"{self._catalog.url}: {path}: ")
                self._unread[path] = Problem(path, said, path, passing=is_passing(error))
        self._runs = RunRecords(self._catalog, self._commits, runs, self._verdict)
        newest = max((commit.version or 0 for commit in self._commits.values()), default=0)
        if newest > self._catalog.format.version:
            what = f"version: is {self._catalog.format.version}, and there are shards of version {newest}"
            self._verdict.problems.append(Problem(layout.FORMAT, what))
            if newest >= SEALED_SINCE and _proven(self._storage):
                self._verdict.repairs.append(_written_again(self._storage))

    def shards(self, on_shard: Callable[[int, int], None] | None) -> None:
        """Check every shard."""
        paths = sorted([*self._commits, *self._unread])
        for number, path in enumerate(paths):
            self._verdict.shards += 1
            found = [self._unread[path]] if path in self._unread else self._shard(path, self._commits[path])
            self._verdict.problems += found
            if found and not any(problem.passing for problem in found) and path not in self._unsure:
                self._verdict.repairs.append(self._taken_out(path, found))
            if on_shard:
                on_shard(number + 1, len(paths))

    def _shard(self, path: str, commit: CommitRecord) -> list[Problem]:
        self._named |= {file.path for file in commit.files}
        record = self._runs.usable.get(commit.run)
        if record is None:
            return []  # the run record is the problem
        try:
            commit.check_under(record, path)
        except StoreError as error:
            if commit.run_sha256 != record.sha256() and not self._runs.proves(commit.run, commit):
                self._unsure.add(path)
            return [Problem(path, first_line(error).removeprefix(f"{path}: "), path)]
        checker = ShardChecker(self._catalog, commit, record, self.listed, self._verdict)
        found = checker.problems(quick=self._quick)
        return [Problem(where, what, path, passing=passing) for where, what, passing in found]

    def _taken_out(self, path: str, problems: list[Problem]) -> Repair:
        """Return the repair that moves a shard to quarantine/, its commit record first."""
        shard = layout.shard_of(path)
        reason = "; ".join(f"{problem.path}: {problem.what}" for problem in problems)
        of_shard = [
            other
            for other in self.listed
            if other.split("/")[0] in layout.TABLE_NAMES and layout.shard_of(other) == shard
        ]
        moves = dict.fromkeys([path, *of_shard], reason)
        claim = path.replace(layout.COMMITS, layout.CLAIMS, 1)
        return Repair(f"{path}: is taken out, so that the next trace does the shard again", moves, claim=claim)

    def beside(self) -> None:
        """Check what stands beside the shards: roll-ups added up, plans, texts that were set aside, unfinished work."""
        for path in self.listed:
            if path.startswith(f"{layout.FAILED}/"):
                self._failed(path)
        for record in self._runs.usable.values():
            self._compacted(record)
            self._plan(record)
        self._verdict.orphans = [
            path for path in self.listed if path.split("/")[0] in layout.TABLE_NAMES and path not in self._named
        ]
        self._verdict.unfinished = self._storage.unfinished()
        self._verdict.claims = living_claims(self._storage)

    def _compacted(self, record: RunRecord) -> None:
        """Check the index of compacted roll-ups, then the roll-ups; both can be made again."""
        at = layout.compact_index_path(record.run)
        moves = {at: "its roll-ups cannot be used"}
        try:
            index = read_index(self._storage, record, len(self._commits))
            if index is None:
                return
            at = index.data.path
            moves[at] = "cannot be used"
            read_verified(self._catalog, index.data, 0, index.data.bytes)
            self._same_sums(record, index)
        except (StoreError, OSError) as error:
            if not self._catalog.format.sealed or isinstance(error, OlderIndexError):
                self._verdict.notes.append(f"{at}: is of an older format, not used; `moetrace compact` makes it again")
                return
            what = first_line(error).removeprefix(f"{self._storage}: {at}: ")
            anew = " --anew" if isinstance(error, _WrongSumsError) else ""
            what, passing = f"{what}; make it again with `moetrace compact{anew}`", is_passing(error)
            self._verdict.problems.append(Problem(at, what, None, passing))
            if not passing:
                says = f"{at}: is taken out; `moetrace compact` makes it again"
                self._verdict.repairs.append(Repair(says, moves))
            return
        commits = {path: self.listed[path] for path in self._commits}
        if len(index.current(commits)) < len({entry.commit.lang for entry in index.entries.values()}):
            path = layout.compact_index_path(record.run)
            self._verdict.notes.append(f"{path}: is of other shards than there are; `moetrace compact` renews it")

    def _same_sums(self, record: RunRecord, index: CompactIndex) -> None:
        """Raise StoreError where compacted roll-ups in use say otherwise than the shards they were made from."""
        where = f"{self._storage}: {index.data.path}"
        listed = {path: self.listed[path] for path in self._commits}
        for path, commit in index.unchanged(listed).items():
            if commit != without_checksums(self._commits[path]):
                raise StoreError(f"{where}: its index has another record of {commit.key} than {path}")
        if self._quick:
            return
        rows = compacted_rows(self._catalog, record, index.data)
        for lang in index.current(listed):
            commits = [self._commits[path] for path in sorted(index.entries) if index.entries[path].commit.lang == lang]
            oldest = self._catalog.format.oldest
            files = [
                (file, commit.version or oldest) for commit in commits for file in commit.files if file.table == "usage"
            ]
            try:
                expected = added_up(self._catalog, record, lang, files)
                if lang in rows:
                    expected = self._with_moments(record, commits, expected, rows[lang])
            except StoreError:
                continue  # a shard is the problem
            if lang not in rows or not rows[lang].equals(expected):
                raise _WrongSumsError(f"{where}: what it says of {lang} is not what its shards add up to")

    def _with_moments(
        self, record: RunRecord, commits: Sequence[CommitRecord], expected: pa.Table, found: pa.Table
    ) -> pa.Table:
        """Return what shards add up to, with the moments of their routes where `found` has them and roll-ups do not."""
        said = moments_in(found)
        if said is None or moments_in(expected) is not None or not set(SOURCES) <= set(record.tables):
            return expected
        counted = added_moments(shard_moments(self._catalog, record, commit) for commit in commits)
        same = all(np.allclose(said[name], counted[name], rtol=SUM_TOLERANCE, atol=0) for name in said)
        return with_moments(expected, said if same else counted)

    def _plan(self, record: RunRecord) -> None:
        """Check the plan of a run, and say how many of the planned shards are there."""
        commits = {commit.key: commit for commit in self._commits.values() if commit.run == record.run}
        path = layout.plan_path(record.run)
        if path in self.listed:
            try:
                plan = PlanRecord.from_json(self._storage.read(path, MOST_OF_A_PLAN), path)
                self._same_cut(plan, record, commits)
            except (StoreError, OSError) as error:
                what, passing = first_line(error).removeprefix(f"{path}: "), is_passing(error)
                self._verdict.problems.append(Problem(path, what, None, passing))
                if not passing:
                    self._verdict.repairs.append(Repair(f"{path}: is taken out", {path: what}))
        planned = record.corpus.get("shards", {})
        there = sum(1 for commit in commits.values() if commit.shard < planned.get(commit.lang, 0))
        missing = (
            key
            for lang, shards in sorted(planned.items())
            for key in (layout.shard_key(lang, number) for number in range(shards))
            if key not in commits
        )
        if total := sum(planned.values()):
            self._verdict.runs.append(RunProgress(record.run, there, total, tuple(islice(missing, NAMED))))

    def _same_cut(self, plan: PlanRecord, record: RunRecord, commits: dict[str, CommitRecord]) -> None:
        """Raise StoreError where a plan is of another run; note the shards that are not cut as it says."""
        where = layout.plan_path(record.run)
        if (plan.run, plan.run_sha256) != (record.run, record.sha256()):
            raise StoreError(f"{where}: run_sha256: is of another record than that of run '{record.run}'")
        fewer = record.leaves_out_tokens
        more = bool(record.settings.get("generation")) and not record.settings.get("prompt_only")
        for key, (texts, tokens) in plan.sizes.items():
            commit = commits.get(key)
            if commit is None:
                continue
            failed = layout.failed_path(commit.run, commit.lang, commit.shard)
            aside = self._verdict.failed.get(failed, None if failed in self.listed else 0)
            whole = commit.sequences <= texts if aside is None else commit.sequences + aside == texts
            if not whole or (commit.tokens > tokens and not more) or (commit.tokens < tokens and not (fewer or aside)):
                what = f"has {commit.sequences} texts of {commit.tokens} tokens, {where} says {texts} of {tokens}"
                if aside:
                    what += f", {failed} that {aside} of them were set aside"
                path = layout.commit_path(commit.run, commit.lang, commit.shard)
                self._verdict.problems.append(Problem(path, what))

    def _failed(self, path: str) -> None:
        try:
            record = failed_record(path, self._storage.read(path))
            if usable := self._runs.usable.get(record.run):
                require_made_under(record, usable.sha256())
            self._verdict.failed[path] = len(record.texts)
        except (StoreError, OSError) as error:
            what = first_line(error).removeprefix(f"{path}: ")
            self._verdict.problems.append(Problem(path, what, None, is_passing(error)))

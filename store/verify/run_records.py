"""Checking the run records of a store, each against its copy and against the commits that were made under it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from moetrace.store.errors import StoreError
from moetrace.store.format import layout
from moetrace.store.verify.verdict import Problem, Repair, first_line, is_passing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moetrace.store.format.records import CommitRecord, RunRecord
    from moetrace.store.read.catalog import Catalog
    from moetrace.store.verify.verdict import Verdict


class RunRecords:
    """The run records of a store that can be used, and which of them are proven.

    - usable: by run; of a damaged one, its copy where that is what the commits were made under
    - proven: runs whose record is that of another commit, too, or of the copy: a commit that names another digest is
      damaged, not the record
    """

    def __init__(self, catalog: Catalog, commits: Mapping[str, CommitRecord], runs: set[str], verdict: Verdict) -> None:
        """Check every record.

        commits: those that could be read, by path; runs: every run of which there is a record or a commit
        """
        self.usable: dict[str, RunRecord] = {}
        self._catalog, self._verdict = catalog, verdict
        self._digests: dict[str, Counter[str]] = {run: Counter() for run in runs}
        for commit in commits.values():
            self._digests[commit.run][commit.run_sha256] += 1
        self._copied: set[str] = set()
        for run in sorted(runs):
            self._check(run)

    def proves(self, run: str, commit: CommitRecord) -> bool:
        """Tell whether the record of a run is known to be right by something else than this commit."""
        digest = self.usable[run].sha256()
        others = self._digests[run][digest] - (commit.run_sha256 == digest)
        return others > 0 or run in self._copied

    def _check(self, run: str) -> None:
        path, copy_path = layout.run_path(run), layout.run_copy_path(run)
        record, wrong = self._read(path, path)
        copy, copy_wrong = self._read(copy_path, path)
        named = self._digests[run]
        if record is not None and copy is not None and record.sha256() != copy.sha256():
            if named[copy.sha256()] > named[record.sha256()]:
                wrong = Problem(path, f"is another record than that of its {sum(named.values())} shards")
                record = None
            else:
                copy_wrong = Problem(copy_path, f"is no copy of {path}")
                copy = None
        if wrong is None and record is None and not named:
            return  # a copy alone: the run was taken out
        if record is not None:
            self._good_record(record, copy, copy_wrong)
        else:
            self._bad_record(run, wrong, copy)

    def _good_record(self, record: RunRecord, copy: RunRecord | None, copy_wrong: Problem | None) -> None:
        path = layout.run_copy_path(record.run)
        self.usable[record.run] = record
        if copy is not None:
            self._copied.add(record.run)
        if copy_wrong is not None:
            self._verdict.problems.append(copy_wrong)
        if copy_wrong is not None and copy_wrong.passing:
            return
        if copy is None and self._catalog.format.sealed and self._digests[record.run][record.sha256()]:
            moves = {path: copy_wrong.what} if copy_wrong is not None else {}
            content = record.to_json().encode()
            self._verdict.repairs.append(Repair(f"{path}: is written again", moves, {path: content}))

    def _bad_record(self, run: str, wrong: Problem | None, copy: RunRecord | None) -> None:
        path, named = layout.run_path(run), self._digests[run]
        shards = f"{sum(named.values())} shard{'s' * (sum(named.values()) != 1)} of it"
        if wrong is None:
            wrong = Problem(path, "is missing")
        if wrong.passing:
            self._verdict.problems.append(wrong)
            return
        if not named:
            says = f"{path}: is taken out; no shard needs it"
            self._verdict.problems.append(wrong)
            self._verdict.repairs.append(Repair(says, {path: wrong.what}))
            return
        if copy is not None and set(named) <= {copy.sha256()}:
            self.usable[run] = copy
            self._copied.add(run)
            self._verdict.problems.append(wrong)
            moves = {path: wrong.what} if self._catalog.storage.has(path) else {}
            says = f"{path}: is written again, from the copy that {shards} prove"
            self._verdict.repairs.append(Repair(says, moves, {path: copy.to_json().encode()}))
            return
        lost = f"{wrong.what}; {shards} need it, and no copy is there: put it back as it was, or `moetrace rm` the run"
        self._verdict.problems.append(Problem(path, lost))

    def _read(self, path: str, place: str) -> tuple[RunRecord | None, Problem | None]:
        """Return the record at `path` as that of `place`, or what is wrong with it; nothing where it is not there."""
        try:
            return self._catalog.run_record(place, self._catalog.storage.read(path)), None
        except FileNotFoundError:
            return None, None
        except (StoreError, OSError) as error:
            said = first_line(error).removeprefix(f"{self._catalog.url}: {place}: ")
            return None, Problem(path, said, passing=is_passing(error))

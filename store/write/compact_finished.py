"""Compacting a run of many shards at the end of the trace that finished it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError
from moetrace.store.format import layout
from moetrace.store.read.catalog import Catalog
from moetrace.store.read.rollups import rollup_files
from moetrace.store.storage.claims import Claims
from moetrace.store.write.compact import compact

if TYPE_CHECKING:
    from moetrace.store.storage.base import Storage

WORTH = 100  # shards that are not compacted; a thousand of them took 1.4 s to open on two busy cores


def compact_finished(storage: Storage, run: str) -> str:
    """Compact a run of which every planned shard is there, and WORTH of them are not compacted; raise nothing.

    Returns in one line what went wrong, "" where nothing did: a store opens without, more slowly. Of processes that end
    together one does it, while it holds the claim on the first shard, which nobody has use for any more.
    """
    try:
        listed = [entry.path for entry in storage.listing(f"{layout.COMMITS}/run={layout.checked_run(run)}")]
        shards = [shard for path in listed if (shard := layout.shard_of(path))]
        if len(shards) >= WORTH:
            catalog = Catalog(storage)
            record = catalog.run(run)
            planned: dict[str, int] = record.corpus.get("shards", {})
            whole = len(shards) >= sum(planned.values())
            with Claims(storage, run, record.sha256()) as claims:
                # What is compacted is looked at under the claim: who had it before may have done the work.
                if (
                    whole
                    and claims.take(*shards[0][1:])
                    and sum(file.run == run for file in rollup_files(catalog)[1]) >= WORTH
                ):
                    compact(catalog, run)
    except (MoetraceError, OSError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"the roll-ups of run '{run}' were not compacted ({why}); `moetrace compact` can do it later"
    return ""

"""A worker of a cluster whose process one text kills."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from moetrace.tracer.engine.queue import UnderWay
from moetrace.tracer.runs.cluster_actors import Worker

if TYPE_CHECKING:
    from moetrace.tracer.plan.shards import PlannedShard
    from moetrace.tracer.runs.shards import Written

POISON = ("eng_Latn", 77)  # language and number of the text


class PoisonedWorker(Worker):
    """Dies as soon as its engine begins a shard, or a part of one, that has the text."""

    def run(self) -> Written:
        """Trace."""
        begin = UnderWay.begin

        def begin_or_die(under_way: UnderWay, shard: PlannedShard, *, wait: bool) -> bool:
            if shard.lang == POISON[0] and POISON[1] in shard.seqs.tolist():
                os.kill(os.getpid(), signal.SIGKILL)
            return begin(under_way, shard, wait=wait)

        UnderWay.begin = begin_or_die
        return super().run()

"""What capture costs beside the forward pass, stage by stage, without an engine. `make bench-capture`.

Steps of made-up routing go through the routers' copies, the transfer and the shards of a plan, as an engine's would.
Figures are nanoseconds of CPU of one core a decision (one expert of one layer of one token), medians over the rounds,
first the way of a CPU, then the host's part of the way of a GPU, on streams that stand in for its own.

- record: the copies in each router; probabilities: softmax, in the router on a CPU; sums: of each request's rows
- clear, check: rows marked as not written, and seen to be written; applied: routed scaling, and handing over the step
- copy: into the shard, with its positions; profiles: sums of steps added up; hand over: the whole shard, its filters
  and ends; tokens: compared with the plan's
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from moetrace.tracer.engine import queue as queue_module
from moetrace.tracer.engine.queue import UnderWay
from moetrace.tracer.plan.shards import PlannedShard
from moetrace.tracer.worker import TAG, assembly, transfer
from moetrace.tracer.worker.assembly import PlannedShards
from moetrace.tracer.worker.buffers import StepBuffers
from moetrace.tracer.worker.steps import StepRows
from moetrace.tracer.worker.transfer import DirectTransfer, StreamTransfer
from tests.support.steps import request
from tests.support.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHAPES = {"48 x 128, top-8": (48, 128, 8), "24 x 64, top-8": (24, 64, 8)}
STEP, REQUESTS = 4096, 256  # tokens of a step at most, and its requests
STAGES = ("record", "clear", "probabilities", "sums", "applied", "check", "copy", "profiles", "hand over", "tokens")

"""What runs inside vLLM's workers: the tap on every router, and what becomes of its rows."""

# How the two sides of an engine find each other: the command of `collective_rpc`, the key of `additional_config` and of
# a request's `extra_args`; and the worker that an engine is made with.
TAG = "moetrace"
STEER_KEY = "moetrace_steer"  # of a request's extra_args: the name of an intervention, to a worker its digest
TRACED_WORKER = "moetrace.tracer.worker.worker.TracedWorker"

PROBE_TOKENS = 64  # that every engine traces first; their router logits are kept even where profiles are not

"""What a request says of its intervention, made into what the engine needs: a digest for workers, a salt for the cache.

Every way to vLLM's engine goes through `InputProcessor.process_inputs`: `LLM.generate`, `LLM.chat`, the server. There a
request's `extra_args` (over HTTP, `vllm_xargs`) name an intervention, or none by `none`; a request that names nothing
gets the default. What was computed under one intervention is read from the prefix cache under no other: the digest is a
part of the request's `cache_salt`, which is a part of the key of every cached block (`v1/core/kv_cache_utils.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import MoetraceError
from moetrace.tracer.worker import STEER_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm.v1.engine import EngineCoreRequest

NONE = "none"  # what a request says that wants no intervention


class UnknownInterventionError(MoetraceError, ValueError):
    """A request names an intervention that the engine does not have; the engine goes on."""


@dataclass
class Interventions:
    """The interventions that requests may name.

    digests: name -> what workers know it by, None where nothing is done; default: of requests that name none, or None
    """

    digests: Mapping[str, str | None]
    default: str | None = None

    def digest(self, named: Any) -> str | None:
        """Return the digest of what a request names; raise UnknownInterventionError for what is not there."""
        name = self.default if named is None else named
        if name is None or name == NONE:
            return None
        if not isinstance(name, str) or name not in self.digests:
            known = ", ".join(sorted(self.digests)) or "no others"
            raise UnknownInterventionError(
                f"{STEER_KEY}: there is no intervention {str(name)[:80]!r}; there are {NONE}, {known}"
            )
        return self.digests[name]

    def prepare(self, request: EngineCoreRequest) -> EngineCoreRequest:
        """Let a request carry the digest of its intervention, and a salt that is its intervention's own."""
        params = request.sampling_params
        extra = dict((params.extra_args if params is not None else None) or {})
        digest = self.digest(extra.pop(STEER_KEY, None))
        if digest is not None:
            if params is None:
                raise UnknownInterventionError(
                    "a request that samples nothing cannot be steered; leave moetrace_steer out of it"
                )
            extra[STEER_KEY] = digest
            request.cache_salt = f"{request.cache_salt or ''}moetrace-{digest}"
        if params is not None:
            params.extra_args = extra or None
        return request


def prepared(process_inputs: Callable[..., EngineCoreRequest], interventions: Interventions) -> Callable[..., Any]:
    """Return `process_inputs` with every request prepared."""

    def process(*args: Any, **kwargs: Any) -> EngineCoreRequest:
        return interventions.prepare(process_inputs(*args, **kwargs))

    return process

"""Giving commands to what moetrace is in an engine's workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.tracer.worker import TAG

if TYPE_CHECKING:
    from vllm import LLM


def tell_workers(llm: LLM, command: str, *arguments: Any) -> list[Any]:
    """Give a command (`tracer.worker.worker.call`) to every worker; return the answers that are not None, by rank."""
    answers = llm.collective_rpc(TAG, args=(command, *arguments))
    return [answer for answer in answers if answer is not None]

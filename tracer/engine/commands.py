"""Giving commands to the taps of an engine's workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.tracer.worker import TAG

if TYPE_CHECKING:
    from vllm import LLM


def tell_taps(llm: LLM, command: str, *arguments: Any) -> list[Any]:
    """Give a command to every worker's tap; return the answers of those that have one, in rank order.

    Commands are the methods of `WorkerTap`, `install` and `uninstall`.
    """
    answers = llm.collective_rpc(TAG, args=(command, *arguments))
    return [answer for answer in answers if answer is not None]

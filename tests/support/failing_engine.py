"""`moetrace` with a model that cannot run one text: vLLM's model runner raises where a prompt is of these token ids.

python -m tests.support.failing_engine IDS COMMAND ...     IDS: token ids as JSON
"""

from __future__ import annotations

import json
import sys
from typing import Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from moetrace.cli.main import main

execute_model = GPUModelRunner.execute_model


def fail_on(prompt: list[int]) -> None:
    def failing(runner: GPUModelRunner, scheduled: Any, *arguments: Any, **named: Any) -> Any:
        if any(list(request.prompt_token_ids) == prompt for request in scheduled.scheduled_new_reqs):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nof a text that is bad")
        return execute_model(runner, scheduled, *arguments, **named)

    GPUModelRunner.execute_model = failing


if __name__ == "__main__":
    fail_on(json.loads(sys.argv[1]))
    main(sys.argv[2:])

"""What training a mask costs beside training every expert: memory above a forward and backward pass, and time.

    python -m tests.benchmarks.bench_training [--masked 4] [--hidden 512] [--steps 5]

Each way in a process of its own: a random OLMoE of two layers of 64 experts, AdamW, float32 and bfloat16 weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

LAYERS, EXPERTS = 2, 64
WAYS = ("masked", "all experts")
MIB = 2**20


def measure(way: str, dtype: str, masked: int, hidden: int, steps: int) -> dict[str, Any]:
    """Train and say what it took; `masked` experts of each layer are in the mask."""
    import torch
    import transformers

    from moetrace.tracer.training import apply_mask
    from moetrace.tracer.training.loaded_model import describe
    from tests.support.masks import mask_for

    torch.set_num_threads(1)
    config = transformers.OlmoeConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        num_experts=EXPERTS,
        num_experts_per_tok=8,
    )
    model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    ids = torch.randint(0, 256, (4, 64))
    model.requires_grad_(False).get_input_embeddings().requires_grad_(True)  # activations and kernels' own buffers
    model(input_ids=ids, labels=ids).loss.backward()
    model.zero_grad()
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model.requires_grad_(False)
    if way == "masked":
        apply_mask(model, mask_for(model, [(layer, expert) for layer in range(LAYERS) for expert in range(masked)]))
    else:
        for experts in describe(model).experts.values():
            experts.module.requires_grad_(True)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-4)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    moments = sum(each.numel() * each.element_size() for state in optimizer.state.values() for each in state.values())
    return {"trained": trained, "moments": moments, "extra": peak - loaded, "seconds": min(seconds)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--masked", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--measure", nargs=2)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(*given.measure, given.masked, given.hidden, given.steps)))
        return
    print("| weights | trained | parameters | optimizer state | memory above a pass | a step |")
    print("|---|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        for way in WAYS:
            command = [sys.executable, "-m", "tests.benchmarks.bench_training", "--measure", way, dtype]
            options = [f"--{name}={getattr(given, name)}" for name in ("masked", "hidden", "steps")]
            done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {dtype} | {way} | {found['trained']:,} | {found['moments'] / MIB:,.0f} MiB "
                f"| {found['extra'] / MIB:,.0f} MiB | {found['seconds'] * 1000:,.0f} ms |"
            )


if __name__ == "__main__":
    main()

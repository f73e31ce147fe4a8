"""What steering costs: every request steered, steering there and idle, and vLLM as it is. `make bench-steer`.

The same texts and process; each round runs every way once, in an order that turns with the rounds; figures are medians
over the rounds, ratios are medians of the rounds' own ratios. Steered: eight interventions in a batch, of every mode,
two experts in each of the middle half of the layers.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.store.intervention import intervention_of
from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.engine.commands import tell_workers
from moetrace.tracer.engine.settings import require_engine
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.recording.attach import tap_arguments
from moetrace.tracer.steering.attach import steered
from tests.benchmarks.bench_trace import texts, wide_model
from tests.benchmarks.timing import described, ratio_of_rounds, seconds_in_turns
from tests.support.paths import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm import LLM

    from moetrace.store.intervention import Intervention

COUNT = 8
MODES = ("promote", "suppress", "soft", "scale")


def interventions(layers: list[int], num_experts: int) -> list[Intervention]:
    """Return eight interventions, two of each mode, on different experts of the middle half of the layers."""
    middle = layers[len(layers) // 4 : len(layers) - len(layers) // 4]
    found = []
    for number in range(COUNT):
        mode = MODES[number % len(MODES)]
        experts = [(2 * number) % num_experts, (2 * number + 1) % num_experts]
        cells = [{"layer": layer, "expert": expert} for layer in middle for expert in experts]
        step: dict[str, Any] = {"mode": mode, "experts": cells}
        if mode in {"soft", "scale"}:
            step["lambda"] = 0.5
        value = {"format": "moetrace-intervention", "version": 1, "name": f"i{number}", "steps": [step]}
        found.append(intervention_of(value, f"i{number}"))
    return found


def engine(model: Path, *, compiled: bool, steering: bool) -> LLM:
    """Return vLLM as anybody makes it, or ready to be steered and not tapped."""
    from vllm import LLM

    arguments: dict[str, Any] = {}
    if steering:
        arguments = tap_arguments(str(model), steering=True, tracing=False)
    return LLM(
        model=str(model),
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=4096,
        enforce_eager=not compiled,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=2**30,
        skip_tokenizer_init=True,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **arguments,
    )


def way(llm: LLM, token_ids: list[list[int]], new_tokens: int, names: list[str] | None) -> Callable[[], None]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": ids} for ids in token_ids]
    common: dict[str, Any] = {"max_tokens": new_tokens, "temperature": 0.0, "detokenize": False, "ignore_eos": True}
    params = [
        SamplingParams(**common, extra_args={"moetrace_steer": names[number % len(names)]} if names else None)
        for number in range(len(prompts))
    ]
    return lambda: llm.generate(prompts, params, use_tqdm=False) and None


@click.command()
@click.argument("model", type=click.Choice(["micro", "wide"]))
@click.option("--rounds", default=7, show_default=True)
@click.option("--languages", default=6, show_default=True, help="Only the first N languages.")
@click.option("--texts", "per_language", type=int, help="Only the first N texts of each language.")
@click.option("--compiled", is_flag=True, help="Compile the model in every way.")
@click.option("--new-tokens", default=1, show_default=True, help="Tokens sampled after each text; 1 is prefill alone.")
def main(
    model: str,
    rounds: int,
    languages: int,
    per_language: int | None,
    compiled: bool,  # noqa: FBT001  a flag
    new_tokens: int,
) -> None:
    """Print the table for the bundled model (micro) or a random one of 24 layers x 64 experts, top-8 (wide)."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    require_engine()
    udhr = SHARED / "data" / "udhr"
    source = udhr if udhr.is_dir() else CORPUS
    token_ids = [ids for rows in texts(source, languages).values() for ids in rows[:per_language]]
    tokens = sum(map(len, token_ids)) + len(token_ids) * (new_tokens - 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = MODEL if model == "micro" else wide_model(Path(scratch))
        facts = read_facts(str(folder))
        plain = engine(folder, compiled=compiled, steering=False)
        ready = engine(folder, compiled=compiled, steering=True)
        made = interventions(list(facts.moe_layers), facts.num_experts)
        start = time.perf_counter()
        with steered(ready, *made, default="none"):
            loading = time.perf_counter() - start
            (table_bytes,) = tell_workers(ready, "steering_table_bytes")
            ways = {
                "steered": way(ready, token_ids, new_tokens, [one.name for one in made]),
                "installed, idle": way(ready, token_ids, new_tokens, None),
                "not installed": way(plain, token_ids, new_tokens, None),
            }
            for run in ways.values():
                run()
            seconds = seconds_in_turns(ways, rounds)
    print(f"{model} model, {source.name}: {tokens:,} tokens of {len(token_ids)} texts, {rounds} rounds, medians;")
    print(f"{described(compiled=compiled, new_tokens=new_tokens)}\n")
    print("| way | tokens/s | of what is not installed | of what is idle |\n|---|---:|---:|---:|")
    for name in ways:
        ratios = [ratio_of_rounds(seconds, name, base) for base in ("not installed", "installed, idle")]
        print(f"| {name} | {tokens / statistics.median(seconds[name]):,.0f} | {ratios[0]:.3f} | {ratios[1]:.3f} |")
    print(
        f"\nEight interventions were loaded in {loading * 1e3:.0f} ms; the tables take {table_bytes / 2**20:.2f} MiB."
    )


if __name__ == "__main__":
    main()

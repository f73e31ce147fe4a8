"""What tracing costs: traced vLLM against untraced vLLM and against a plain transformers loop. `make bench-trace`.

The same texts, model and process; each round runs every way once, in an order that turns with the rounds; figures are
medians over the rounds, ratios are medians of the rounds' own ratios. Traced means everything: ids, weights, profiles,
roll-ups, Parquet files synced to disk and committed.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.engine.settings import require_engine
from moetrace.tracer.plan.shards import PlannedShard
from tests.benchmarks.timing import described, ratio_of_rounds, seconds_in_turns
from tests.support.paths import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm import LLM

    from moetrace.store.format.records import CommitRecord
    from moetrace.tracer.engine.engine import TracedEngine


def texts(folder: Path, languages: int) -> dict[str, list[list[int]]]:
    """Return language -> token ids of its texts, of the first languages."""
    from transformers import AutoTokenizer

    from moetrace.tracer.corpus.corpus import open_corpus

    tokenizer, corpus = AutoTokenizer.from_pretrained(MODEL), open_corpus(str(folder))
    return {
        lang: [ids[:1000] for ids in tokenizer([text.text for text in corpus.read(lang)])["input_ids"]]
        for lang in corpus.languages[:languages]
    }


def planned(token_ids: dict[str, list[list[int]]]) -> list[PlannedShard]:
    return [
        PlannedShard(
            lang,
            0,
            np.arange(len(rows), dtype=np.int32),
            tuple(str(i) for i in range(len(rows))),
            np.zeros(len(rows), dtype=bool),
            tuple(np.array(ids, dtype=np.int32) for ids in rows),
        )
        for lang, rows in token_ids.items()
    ]


def wide_model(folder: Path) -> Path:
    """Write a random Qwen3-MoE of 24 layers x 64 experts, top-8: routing as wide as that of models people train."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=128,
        num_hidden_layers=24,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=64,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder / "wide")
    return folder / "wide"


def traced_engine(model: Path, *, compiled: bool) -> TracedEngine:
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import read_facts

    return TracedEngine(read_facts(str(model)), EngineSettings(dtype="float32", max_model_len=1024, eager=not compiled))


class Written:
    """What a traced round wrote: seconds until its first shard was committed, bytes of all."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.bytes = 0
        self._started: float | None = None

    def begin(self) -> None:
        self._started, self.bytes = time.perf_counter(), 0

    def committed(self, commit: CommitRecord) -> None:
        if self._started is not None:
            self.first.append(time.perf_counter() - self._started)
            self._started = None
        self.bytes += sum(file.bytes for file in commit.files)


def traced_way(
    engine: TracedEngine,
    token_ids: dict[str, list[list[int]]],
    folder: Path,
    new_tokens: int,
    written: Written,
    writers: int | None = None,
) -> Callable[[], None]:
    from moetrace.store.write.writer import StoreWriter
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.runs.outlet import Outlet
    from tests.support.stores import make_record

    shards = planned(token_ids)
    facts = engine.facts
    record = make_record("bench", tuple(token_ids), engine.moe_layers, facts.num_experts, facts.top_k)
    record.settings["weight_precision"] = "f16"
    count = iter(range(1_000_000))
    # No stop tokens on either side: both generate the same number.
    generation = Generation(new_tokens - 1, lambda _: "", ignore_eos=True) if new_tokens > 1 else None

    def run() -> None:
        path = folder / f"store-{next(count)}"
        written.begin()
        writer, background = StoreWriter(path, record), not engine.on_cpu
        with Outlet(writer, background=background, committed=written.committed, writers=writers) as outlet:
            for shard in engine.trace(shards, generation=generation, memory=outlet):
                outlet.put(shard)
                del shard
        shutil.rmtree(path)

    return run


def untraced_llm(arguments: Mapping[str, Any]) -> LLM:
    """Return vLLM with the arguments of a traced engine, but for the tap."""
    from vllm import LLM

    return LLM(**{key: value for key, value in arguments.items() if key not in {"worker_cls", "additional_config"}})


def untraced_way(llm: LLM, token_ids: dict[str, list[list[int]]], new_tokens: int) -> Callable[[], None]:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": ids} for rows in token_ids.values() for ids in rows]
    params = SamplingParams(max_tokens=new_tokens, temperature=0.0, detokenize=False, ignore_eos=True)
    return lambda: llm.generate(prompts, params, use_tqdm=False) and None


def transformers_way(folder: Path, token_ids: dict[str, list[list[int]]], batch: int) -> Callable[[], None]:
    """The loop that studies write: forward with output_router_logits, top-k of the logits, counts in a dictionary."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    top_k, pad = model.config.num_experts_per_tok, model.config.pad_token_id or 0
    rows = [ids for language in token_ids.values() for ids in language]

    @torch.no_grad()
    def run() -> None:
        counts: dict[tuple[int, int], int] = {}
        for start in range(0, len(rows), batch):
            group = rows[start : start + batch]
            width = max(map(len, group))
            inputs = torch.tensor([ids + [pad] * (width - len(ids)) for ids in group])
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in group])
            output = model(input_ids=inputs, attention_mask=mask, output_router_logits=True, use_cache=False)
            kept = mask.bool().view(-1)
            for layer, logits in enumerate(output.router_logits):
                chosen = logits[kept].softmax(-1).topk(top_k, dim=-1).indices
                for expert, count in enumerate(torch.bincount(chosen.view(-1)).tolist()):
                    counts[layer, expert] = counts.get((layer, expert), 0) + count

    return run


@click.command()
@click.argument("model", type=click.Choice(["micro", "wide"]))
@click.option("--rounds", default=5, show_default=True)
@click.option("--languages", default=24, show_default=True, help="Only the first N languages.")
@click.option("--texts", "per_language", type=int, help="Only the first N texts of each language.")
@click.option("--compiled", is_flag=True, help="Compile the model in all three vLLM ways.")
@click.option("--new-tokens", default=1, show_default=True, help="Tokens sampled after each text; 1 is prefill alone.")
@click.option("--no-loops", is_flag=True, help="Leave the transformers loops out.")
@click.option("--corpus", type=click.Path(path_type=Path), help="[default: shared UDHR, else the bundled corpus]")
def main(
    model: str,
    rounds: int,
    languages: int,
    per_language: int | None,
    compiled: bool,  # noqa: FBT001  a flag
    new_tokens: int,
    no_loops: bool,  # noqa: FBT001
    corpus: Path | None,
) -> None:
    """Print the table for the bundled model (micro) or a random one of 24 layers x 64 experts, top-8 (wide)."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    require_engine()
    udhr = SHARED / "data" / "udhr"
    source = corpus or (udhr if udhr.is_dir() else CORPUS)
    token_ids = {lang: rows[:per_language] for lang, rows in texts(source, languages).items()}
    count = sum(len(rows) for rows in token_ids.values())
    tokens = sum(len(ids) for rows in token_ids.values() for ids in rows) + count * (new_tokens - 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = MODEL if model == "micro" else wide_model(Path(scratch))
        engine = traced_engine(folder, compiled=compiled)
        plain = untraced_llm(engine.arguments)
        written = Written()
        ways = {
            "vLLM, traced into a store": traced_way(engine, token_ids, Path(scratch), new_tokens, written),
            "vLLM, tap installed and off": untraced_way(engine.llm, token_ids, new_tokens),
            "vLLM, untraced": untraced_way(plain, token_ids, new_tokens),
        }
        warm = list(ways)  # the loops need no warm-up
        if not no_loops:
            ways["transformers loop, batch 1"] = transformers_way(folder, token_ids, 1)
            ways["transformers loop, padded batches of 8"] = transformers_way(folder, token_ids, 8)
        for name in warm:
            ways[name]()
        seconds, first = seconds_in_turns(ways, rounds), next(iter(ways))
    layers = len(engine.moe_layers)
    print(f"{model} model, {source.name}: {tokens:,} tokens in {len(token_ids)} languages, {rounds} rounds, medians;")
    print(f"{described(compiled=compiled, new_tokens=new_tokens)}\n")
    print(f"| {'way':<40} | tokens/s | traced vLLM is |\n|{'-' * 42}|---------:|---------------:|")
    for name in ways:
        ratio = ratio_of_rounds(seconds, first, name)
        print(f"| {name:<40} | {tokens / statistics.median(seconds[name]):8,.0f} | {ratio:12.2f} x |")
    pairs = zip(seconds[first], seconds["vLLM, untraced"], strict=True)
    cost = statistics.median(traced - untraced for traced, untraced in pairs) / tokens / layers
    print(
        f"\nTracing costs {cost * 1e6:.2f} microseconds a token and layer; {written.bytes / tokens:.1f} bytes a token;"
    )
    print(f"the first shard was in the store after {statistics.median(written.first):.2f} s.")


if __name__ == "__main__":
    main()

"""What tracing costs on a GPU: a model of the shape of Qwen3-30B-A3B with random weights. `make bench-gpu`.

Nobody has run it on a GPU yet; `--small` runs the same code on a CPU. Estimated for an H200, at 50,000 tokens/s and
with 61 GB of weights: 3 minutes eager (one engine: 30 s to start, five ways of prefill of 20 s, decoding), and as much
again compiled with CUDA graphs (two engines, each of which compiles and captures for a minute or more). `--modes`,
`--tokens` and `--writers` cut it.

An eager engine is traced and untraced in turns, as its tap can be taken out. What is compiled or captured cannot be
changed: there an engine with a tap runs first, then one without. Texts are random token ids. Weights are vLLM's random
ones, but for norms, which are 1, and routers, which are drawn so wide that logits have a standard deviation of some 2:
the choice is decisive, as in a trained model, but all experts are chosen about equally often, as in none.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from moetrace.store.format.layout import SHARD_TOKENS
from moetrace.tracer.engine.commands import tell_workers
from moetrace.tracer.engine.generation import Generation
from moetrace.tracer.engine.settings import EngineSettings, engine_versions, require_engine
from moetrace.tracer.model.facts import read_facts
from tests.benchmarks.bench_trace import Written, planned, traced_way, untraced_llm, untraced_way
from tests.benchmarks.timing import seconds_in_turns
from tests.support.probed import trace_and_replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moetrace.tracer.engine.engine import TracedEngine

TARGET = 0.98
MODES = ("eager", "graphs")
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "bfloat16",
}
SMALL = QWEN3_30B_A3B | {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 16,
    "num_experts_per_tok": 4,
}
ROUTER_SPREAD = 2.0  # standard deviation of router logits
MAX_LEN = 2048
STEP_TOKENS = 8192  # of a forward pass
CAPTURED = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # sizes of CUDA graphs; vLLM's own list has fifty and takes longer


@dataclass(frozen=True)
class Work:
    """What every way does: texts, and the tokens that are sampled after each; 1 is prefill alone."""

    name: str
    token_ids: dict[str, list[list[int]]]
    new_tokens: int
    rounds: int

    @property
    def tokens(self) -> int:
        """The tokens that are run: the last that is sampled is not."""
        texts = [ids for rows in self.token_ids.values() for ids in rows]
        return sum(map(len, texts)) + len(texts) * (self.new_tokens - 1)

    @property
    def generation(self) -> Generation | None:
        """How what is sampled is traced: a token less, and no end before."""
        return Generation(self.new_tokens - 1, lambda _: "", ignore_eos=True) if self.new_tokens > 1 else None

    def warm_up(self) -> Work:
        """Return a little of the work: what is compiled or tuned when it is first met is met."""
        few = {"l00": self.token_ids["l00"][:32]} if self.new_tokens == 1 else self.token_ids
        return replace(self, token_ids=few, new_tokens=min(self.new_tokens, 4))


@dataclass
class Figures:
    """What one way of some work took: wall seconds of each round, the most GPU memory in GiB (None on a CPU)."""

    seconds: list[float] = field(default_factory=list)
    allocated: float | None = None
    reserved: float | None = None


def random_texts(tokens: int, vocabulary: int, seed: int = 0) -> dict[str, list[list[int]]]:
    """Return language -> texts of drawn ids, `tokens` in all, a shard's worth a language.

    Lengths are log-normal around 400 tokens, 16 to MAX_LEN - 1 of them.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[list[int]]] = {}
    left, room, lang = tokens, 0, ""
    while left > 0:
        if room <= 0:
            lang, room = f"l{len(found):02}", SHARD_TOKENS
            found[lang] = []
        length = min(left, int(np.clip(rng.lognormal(np.log(400), 0.8), 16, MAX_LEN - 1)))
        found[lang].append(rng.integers(2, vocabulary, length).tolist())
        left, room = left - length, room - length
    return found


def prompts(texts: int, length: int, vocabulary: int) -> dict[str, list[list[int]]]:
    """Return one language of texts of one length."""
    return {"l00": np.random.default_rng(1).integers(2, vocabulary, (texts, length)).tolist()}


@contextmanager
def decisive_routers() -> Iterator[None]:
    """Have vLLM's random weights of norms and routers be such as to route decisively, in engines of this process."""
    import torch
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    load = DummyModelLoader.load_weights

    @torch.no_grad()
    def load_weights(self: Any, model: torch.nn.Module, model_config: Any) -> None:
        load(self, model, model_config)
        routers = 0
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1.0)
            elif name.endswith(".mlp.gate.weight"):
                drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(routers))
                weight.copy_(drawn * ROUTER_SPREAD / weight.shape[1] ** 0.5)
                routers += 1
        assert routers == model_config.hf_text_config.num_hidden_layers, "the routers have another name in this vLLM"

    DummyModelLoader.load_weights = load_weights
    try:
        yield
    finally:
        DummyModelLoader.load_weights = load


def start(folder: Path, *, eager: bool, small: bool) -> TracedEngine:
    import torch

    from moetrace.tracer.engine.engine import TracedEngine

    options: dict[str, Any] = {"load_format": "dummy"}
    if torch.cuda.is_available():
        options["gpu_memory_utilization"] = 0.5  # what must be free at the start; the cache has a size of its own
    if not eager:
        options["compilation_config"] = {"cudagraph_capture_sizes": list(CAPTURED)}
    settings = EngineSettings(
        dtype="bfloat16",
        max_model_len=MAX_LEN,
        max_num_batched_tokens=2048 if small else STEP_TOKENS,
        eager=eager,
        kv_cache_gib=0.25 if small else 8.0,
        options=options,
    )
    return TracedEngine(read_facts(str(folder)), settings)


def set_tap(engine: TracedEngine, *, there: bool) -> None:
    """Put the tap of an eager engine in, or take it out, and its buffers with it."""
    options = {"scoring": engine.facts.rule.scoring, "profiles": engine.settings.profiles}
    tell_workers(engine.llm, "install", options) if there else tell_workers(engine.llm, "uninstall")
    gc.collect()


def measured(
    ways: dict[str, Callable[[], None]], rounds: int, before: Callable[[str], None] = lambda _: None
) -> dict[str, Figures]:
    """Run every way in turns; `before` is called with its name, and not timed."""
    import torch

    found = {name: Figures() for name in ways}
    on_gpu = torch.cuda.is_available()

    def ready(name: str) -> None:
        before(name)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def noted(name: str, run: Callable[[], None]) -> Callable[[], None]:
        def noting() -> None:
            run()
            if on_gpu:
                found[name].allocated = torch.cuda.max_memory_allocated() / 2**30
                found[name].reserved = torch.cuda.max_memory_reserved() / 2**30

        return noting

    for name, seconds in seconds_in_turns({name: noted(name, ways[name]) for name in ways}, rounds, ready).items():
        found[name].seconds = seconds
    return found


def traced_ways(engine: TracedEngine, work: Work, writers: list[int], scratch: Path) -> dict[str, Callable[[], None]]:
    return {
        f"traced, {number} writer{'s' * (number > 1)}": traced_way(
            engine, work.token_ids, scratch, work.new_tokens, Written(), writers=number
        )
        for number in writers
    }


def check(engine: TracedEngine, works: list[Work]) -> None:
    """Print what the replay says of a step of each work; and of one text, whose shard must have the same ids."""
    prefill = works[0]
    alone = replace(prefill, name="one text", token_ids={"l00": [prefill.token_ids["l00"][0]]})
    for work in (alone, *works):
        first = replace(work, token_ids={lang: rows[:64] for lang, rows in work.token_ids.items()})
        step = min(3, work.new_tokens - 1)
        found, shards = trace_and_replay(engine, planned(first.token_ids), step, first.generation)
        if work is alone:
            (shard,) = shards
            for index, layer in enumerate(found):
                ids = shard.experts[index][:, : len(layer.experts)]
                assert np.array_equal(layer.experts.T, ids), f"layer {layer.layer}: other ids came"
        rows = len(found[0].experts)
        print(f"replayed, {work.name}, step {step}: {rows} rows x {len(found)} layers are routed by the rule")


def release() -> None:
    """Give the memory of a closed engine back."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_eager(folder: Path, works: list[Work], writers: list[int], scratch: Path, *, small: bool) -> list[list[str]]:
    """One engine, traced and untraced in turns; return the rows of the table."""
    engine = start(folder, eager=True, small=small)

    def ways_of(work: Work) -> dict[str, Callable[[], None]]:
        swept = writers if work.new_tokens == 1 else writers[:1]
        untraced = {"untraced": untraced_way(engine.llm, work.token_ids, work.new_tokens)}
        return untraced | traced_ways(engine, work, swept, scratch)

    def ready(name: str) -> None:
        set_tap(engine, there=name != "untraced")

    rows = []
    for work in works:
        measured(ways_of(work.warm_up()), 1, ready)
        rows += table_rows("eager", work, measured(ways_of(work), work.rounds, ready))
    set_tap(engine, there=True)
    check(engine, works)
    engine.close()
    return rows


def run_graphs(folder: Path, works: list[Work], writers: list[int], scratch: Path, *, small: bool) -> list[list[str]]:
    """An engine that is traced, then one that is not, both compiled; return the rows of the table."""
    engine = start(folder, eager=False, small=small)
    found = {}
    for work in works:
        measured(traced_ways(engine, work.warm_up(), writers[:1], scratch), 1)
        found[work.name] = measured(traced_ways(engine, work, writers[:1], scratch), work.rounds)
    check(engine, works)
    engine.close()
    arguments = engine.arguments
    del engine
    release()
    plain = untraced_llm(arguments)
    for work in works:
        for each, rounds in ((work.warm_up(), 1), (work, work.rounds)):
            figures = measured({"untraced": untraced_way(plain, each.token_ids, each.new_tokens)}, rounds)
        found[work.name] = figures | found[work.name]
    plain.llm_engine.engine_core.shutdown()
    return [row for work in works for row in table_rows("graphs", work, found[work.name])]


def table_rows(mode: str, work: Work, figures: dict[str, Figures]) -> list[list[str]]:
    base = statistics.median(figures["untraced"].seconds)
    rows = []
    for name, found in figures.items():
        middle = statistics.median(found.seconds)
        spread = (max(found.seconds) - min(found.seconds)) / middle
        memory = ["-" if gib is None else f"{gib:.2f}" for gib in (found.allocated, found.reserved)]
        rows.append([mode, work.name, name, f"{work.tokens / middle:,.0f}", f"{base / middle:.3f}", f"{spread:.3f}"])
        rows[-1] += memory
    return rows


def modes_of(_context: Any, _parameter: Any, value: str) -> list[str]:
    if wrong := sorted(set(value.split(",")) - set(MODES)):
        raise click.BadParameter(f"{', '.join(wrong)}: choose of {', '.join(MODES)}")
    return value.split(",")


def writers_of(_context: Any, _parameter: Any, value: str) -> list[int]:
    return [int(number) for number in value.split(",")]


@click.command()
@click.option("--small", is_flag=True, help="A tiny model and few tokens, for a CPU.")
@click.option("--modes", default="eager,graphs", show_default=True, callback=modes_of)
@click.option("--writers", default="1,2,4,8", show_default=True, callback=writers_of, help="Swept eagerly, in prefill.")
@click.option("--tokens", type=int, help="Of prefill.  [default: 1,000,000, with --small 20,000]")
@click.option("--decode", nargs=2, type=int, help="Texts, and tokens sampled after each.  [default: 256 128, or 16 8]")
@click.option("--rounds", default=1, show_default=True, help="Of prefill; decoding has three times as many.")
def main(
    small: bool,  # noqa: FBT001  a flag
    modes: list[str],
    writers: list[int],
    tokens: int | None,
    decode: tuple[int, int] | None,
    rounds: int,
) -> None:
    """Print traced and untraced tokens/s and the GPU memory of both, for prefill and decoding."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    require_engine()
    import torch

    shape = SMALL if small else QWEN3_30B_A3B
    texts, new_tokens = decode or ((16, 8) if small else (256, 128))
    works = [
        Work("prefill", random_texts(tokens or (20_000 if small else 10**6), shape["vocab_size"]), 1, rounds),
        Work("decoding", prompts(texts, 32, shape["vocab_size"]), new_tokens, 3 * rounds),
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    print(f"{device}; {', '.join(engine_versions().values())}; bfloat16;")
    print(
        f"{shape['num_hidden_layers']} layers x {shape['num_experts']} experts, top-{shape['num_experts_per_tok']}; "
        f"prefill of {works[0].tokens:,} tokens, decoding of {texts} x {new_tokens}; the target is {TARGET}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as name, decisive_routers():
        folder = Path(name) / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(shape))
        for mode in modes:
            run = run_eager if mode == "eager" else run_graphs
            rows += run(folder, works, writers, Path(name), small=small)
            release()
    print("\n| mode | work | way | tokens/s | of untraced | spread | GiB allocated | GiB reserved |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

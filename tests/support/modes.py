"""Runs one mode of the engine in a process of its own and writes what it traced.

`python -m tests.support.modes MODE FILE`, where MODE may be eager: what every other mode is compared with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.intervention import intervention_of
from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.corpus.corpus import open_corpus
from moetrace.tracer.engine.engine import TracedEngine
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.model.facts import read_facts
from moetrace.tracer.plan.plan import make_plan
from moetrace.tracer.steering.attach import load

if TYPE_CHECKING:
    from moetrace.store.intervention import Intervention
    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.plan.plan import Plan

EAGER = EngineSettings(dtype="float32", max_model_len=512, steering=True)
MODES = {
    "compiled": EngineSettings(dtype="float32", max_model_len=512, steering=True, eager=False),
    "tensor parallel": EngineSettings(dtype="float32", max_model_len=512, steering=True, tensor_parallel_size=2),
    "pipeline parallel": EngineSettings(dtype="float32", max_model_len=512, steering=True, pipeline_parallel_size=2),
}


def plan() -> Plan:
    """Two languages of the bundled corpus, in several shards."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    corpus = open_corpus(str(CORPUS)).only(("eng_Latn", "swh_Latn"))
    return make_plan(corpus, lambda texts: tokenizer(texts)["input_ids"], shard_tokens=1024, window=400)


def traced(engine: TracedEngine) -> dict[str, np.ndarray]:
    """Trace the plan, then once more with one of its languages steered; return the arrays of all shards."""
    found = arrays(list(engine.trace(plan().shards)))
    done = intervention()
    load(engine.llm, done)
    by_language = {"swh_Latn": done.digest}
    return found | arrays(list(engine.trace(plan().shards, steered_by=by_language.get)), "steered ")


def assert_steered(found: dict[str, np.ndarray], same: float = 1.0) -> None:
    """What is promoted must be chosen in every steered row, what is suppressed in none; the others are as before.

    same: the share of rows and layers of the other language that must have the same experts
    """
    for name, experts in found.items():
        if not (name.startswith("steered") and name.endswith("experts")):
            continue
        if "swh_Latn" in name:
            assert all((experts[4] == expert).any(axis=0).all() for expert in (1, 2)), name
            assert not np.isin(experts[4], (5, 6)).any(), name
        else:
            plain = found[name.removeprefix("steered ")]
            assert (np.sort(experts, axis=1) == np.sort(plain, axis=1)).all(axis=1).mean() >= same, name


def arrays(shards: list[Shard], prefix: str = "") -> dict[str, np.ndarray]:
    names = ("experts", "weights", "profiles", "token_ids", "lengths")
    return {f"{prefix}{shard.key} {name}": getattr(shard, name) for shard in shards for name in names}


def intervention() -> Intervention:
    """Every mode, in layers of both pipeline stages."""
    factors = {"soft": 1.5, "scale": 0.7}
    steps = [
        {
            "mode": mode,
            "experts": [{"layer": layer, "expert": expert} for layer in (1, 4, 6) for expert in experts],
            **({"lambda": factors[mode]} if mode in factors else {}),
        }
        for mode, experts in (("promote", (1, 2)), ("suppress", (5, 6)), ("soft", (7,)), ("scale", (8, 9)))
    ]
    value = {"format": "moetrace-intervention", "version": 1, "name": "modes", "steps": steps}
    return intervention_of(value, "modes")


def late_tap_refusals() -> list[str]:
    """What happens to a tap that comes after the compiler: refused politely, and by force caught by its empty rows."""
    from vllm import LLM

    from moetrace.tracer.recording.attach import traced

    settings = MODES["compiled"]
    llm = LLM(
        model=str(MODEL),
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_cache_memory_bytes=2**28,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )
    found = []
    try:
        with traced(llm):
            pass
    except MoetraceError as error:
        found.append(str(error))
    llm.collective_rpc("moetrace", args=("install", {"scoring": "softmax", "profiles": True}))
    forced = TracedEngine.__new__(TracedEngine)
    forced.facts, forced.settings, forced.llm, forced._requests = read_facts(str(MODEL)), settings, llm, 0
    forced.moe_layers = forced._check_layout()
    try:
        list(forced.trace(plan().shards))
    except CaptureError as error:
        found.append(str(error))
    return found


def main(mode: str, path: str) -> None:
    engine = TracedEngine(read_facts(str(MODEL)), EAGER if mode == "eager" else MODES[mode])
    found = traced(engine)
    if mode == "compiled":
        found["late tap"] = np.array(late_tap_refusals())
    np.savez(Path(path), **found)
    engine.close()


if __name__ == "__main__":  # vLLM's workers import this module again
    main(*sys.argv[1:])

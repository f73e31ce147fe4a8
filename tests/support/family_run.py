"""Runs a family's tiny checkpoint through the traced engine and through transformers, and says how they compare.

    python -m tests.support.family_run OUT FAMILY:DTYPE[:as-is]     writes OUT/FAMILY-DTYPE[-as-is].json

as-is leaves vLLM on a CPU as it is, without `tracer/worker/cpu_fixes.py` and `tracer/engine/cpu_options.py`.

One family a process: an engine that crashes takes no other family with it, and none meets what another left in vLLM's
caches.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.store.errors import MoetraceError
from moetrace.store.shard.shard import check_shard
from tests.support.checkpoints import is_router, make_checkpoint
from tests.support.families import VOCABULARY
from tests.support.family_steering import steer
from tests.support.stores import make_record

if TYPE_CHECKING:
    import torch

    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.model.facts import RoutingRule
    from moetrace.tracer.plan.shards import PlannedShard

TIE = 1e-6
LENGTHS = (1, 3, 20, 61, 96, 128)
KEPT_ENGINES = []  # engines of a process share vLLM's process groups: when one is collected, the others die


@dataclass(frozen=True)
class Comparison:
    """What became of a family: `error` where it was refused, else how far engine and transformers are apart.

    - moe_layers: the engine's
    - sets_equal: the share of (token, layer) with the same expert set, or with another where the last chosen and the
      first unchosen expert are less than 1e-6 apart; ties: how many have such another
    - noise: in bfloat16, the share that transformers in bfloat16 and in float32 agree on, with the same weights
    - weight_error, profile_error: largest absolute difference, weights divided by the family's scale and compared where
      the sets are equal
    - steering: `family_steering.steer`'s comparison with the formulas
    """

    family: str
    dtype: str
    error: str | None = None
    moe_layers: tuple[int, ...] = ()
    sets_equal: float | None = None
    ties: int = 0
    weight_error: float | None = None
    profile_error: float | None = None
    noise: float | None = None
    steering: dict[str, Any] | None = None


class Reference:
    """A transformers model whose routers are listened to, one text at a time."""

    def __init__(self, model: torch.nn.Module, family: str, top_k: int) -> None:
        self.model, self.family, self.top_k = model, family, top_k
        self._routed: dict[int, list[Any]] = {}
        for path, module in model.named_modules():
            if is_router(f"{path}.weight") and not path.endswith("wg"):
                layer = int(re.search(r"layers\.(\d+)\.", path)[1])
                module.register_forward_hook(self._listener(layer))
            elif path.endswith("gate.wg"):
                layer = int(re.search(r"layers\.(\d+)\.", path)[1])
                model.get_submodule(path.removesuffix(".wg")).register_forward_hook(self._listener(layer))

    def _listener(self, layer: int) -> Any:
        def listen(_module: object, _args: object, output: Any) -> None:
            self._routed[layer] = [tensor.float().numpy() for tensor in self._in_order(output)]

        return listen

    def _in_order(self, output: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a router's logits [n, E], weights and experts [n, k]."""
        if self.family == "granitemoe":
            experts, weights, logits = output
        elif self.family == "llama4_text":
            scores, logits = output
            weights, experts = scores.topk(self.top_k, dim=-1)
        elif self.family == "jamba":
            logits = output
            weights, experts = logits.softmax(-1).topk(self.top_k, dim=-1)
        else:
            logits, weights, experts = output
        return logits, weights, experts

    def route(self, token_ids: np.ndarray) -> list[np.ndarray]:
        """Return logits [T, L, E], weights and experts [T, L, k] of a text of T tokens."""
        import torch

        self._routed.clear()
        with torch.no_grad():
            self.model(input_ids=torch.tensor(token_ids.astype(np.int64))[None])
        layers = [self._routed[layer] for layer in sorted(self._routed)]
        return [np.stack(arrays, axis=1) for arrays in zip(*layers, strict=True)]


def texts(lengths: tuple[int, ...] = LENGTHS) -> PlannedShard:
    """A shard of random texts."""
    from moetrace.tracer.plan.shards import PlannedShard

    rng = np.random.default_rng(7)
    ids = tuple(rng.integers(3, VOCABULARY, length).astype(np.int32) for length in lengths)
    count = len(lengths)
    names = tuple(str(number) for number in range(count))
    return PlannedShard("x", 0, np.arange(count, dtype=np.int32), names, np.zeros(count, dtype=bool), ids)


def compare(shard: Shard, routed: list[list[np.ndarray]], rule: RoutingRule) -> dict[str, Any]:
    """Compare a traced shard with what transformers' routers did, text by text (`Reference.route`)."""
    starts = np.cumsum(shard.lengths) - shard.lengths
    equal = total = ties = 0
    weight_errors, profile_errors = [], []
    all_experts, all_weights = (values.transpose(2, 0, 1) for values in (shard.experts, shard.weights))
    for index, (start, length) in enumerate(zip(starts, shard.lengths, strict=True)):
        rows = slice(start, start + length)
        logits, want_weights, want_experts = routed[index]
        experts, weights = by_expert(all_experts[rows].astype(np.int64), all_weights[rows])
        want_experts, want_weights = by_expert(want_experts.astype(np.int64), want_weights)
        same = (experts == want_experts).all(-1)
        probabilities = router_probabilities(logits, rule.scoring)
        tied = int((gap(probabilities[~same], all_experts.shape[-1]) < TIE).sum())
        equal, ties, total = equal + int(same.sum()) + tied, ties + tied, total + same.size
        weight_errors.append(np.abs(weights - want_weights)[same].max(initial=0))
        profile_errors.append(np.abs(shard.profiles[:, index] - probabilities.mean(axis=0)).max())
    return {
        "sets_equal": equal / total,
        "ties": ties,
        "weight_error": float(np.max(weight_errors)) / rule.scale,
        "profile_error": float(np.max(profile_errors)),
    }


def by_expert(experts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order the experts of each token, and their weights with them, by expert id."""
    order = np.argsort(experts, axis=-1)
    return np.take_along_axis(experts, order, -1), np.take_along_axis(weights, order, -1)


def router_probabilities(logits: np.ndarray, scoring: str) -> np.ndarray:
    """The full router probabilities [..., E] as the contract defines them."""
    scores = 1 / (1 + np.exp(-logits)) if scoring == "sigmoid" else np.exp(logits - logits.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def gap(probabilities: np.ndarray, top_k: int) -> np.ndarray:
    """How far the last chosen expert is above the first that is not."""
    ordered = -np.sort(-probabilities, axis=-1)
    return ordered[..., top_k - 1] - ordered[..., top_k]


def run(family: str, folder: Path, dtype: str) -> Comparison:
    """Make the checkpoint, trace it, check that a store would take it, and compare.

    A refusal by the engine is a result; any other exception is not caught.
    """
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import read_facts

    model = make_checkpoint(family, folder, dtype=dtype)
    facts = read_facts(str(folder))
    planned = texts()
    # Before the engine starts: vLLM changes classes of transformers for models that it runs by their code.
    reference = Reference(model, family, facts.top_k)
    routed = [reference.route(ids) for ids in planned.token_ids]
    try:
        engine = TracedEngine(facts, EngineSettings(dtype=dtype, max_model_len=160, kv_cache_gib=0.05))
        KEPT_ENGINES.append(engine)
        (shard,) = engine.trace([planned])
    except MoetraceError as error:
        return Comparison(family, dtype, error=str(error).replace(str(folder), family))
    record = make_record(moe_layers=engine.moe_layers, num_experts=facts.num_experts, top_k=facts.top_k)
    check_shard(shard, replace(record, routing=asdict(facts.rule)))
    found = compare(shard, routed, facts.rule)
    noise = None if dtype == "float32" else rounding_noise(model, routed, reference, planned)
    steering = steer(engine, planned)
    return Comparison(family, dtype, moe_layers=tuple(engine.moe_layers), noise=noise, steering=steering, **found)


def rounding_noise(
    model: torch.nn.Module, routed: list[list[np.ndarray]], reference: Reference, planned: PlannedShard
) -> float:
    """The share of (token, layer) whose expert set a model keeps when it computes in float32; `routed` is before."""
    model.float()
    same = [
        np.sort(before[2], axis=-1) == np.sort(reference.route(ids)[2], axis=-1)
        for before, ids in zip(routed, planned.token_ids, strict=True)
    ]
    return float(np.concatenate(same).all(axis=-1).mean())


def main(out: Path, name: str) -> None:
    from moetrace.tracer.engine import start
    from moetrace.tracer.worker import cpu_fixes

    family, dtype, *as_is = name.split(":")
    if as_is:
        cpu_fixes.set_right, start.cpu_options = lambda _: None, lambda *_, **__: {}
    stem = name.replace(":", "-")
    found = run(family, out / stem, dtype)
    (out / f"{stem}.json").write_text(json.dumps(asdict(found), indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""What tracing a model would record, and how much of it, without loading a weight or starting an engine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.tracer.model.checkpoint import Checkpoint, read_checkpoint
from moetrace.tracer.model.facts import ModelFacts, read_facts
from moetrace.tracer.model.families import FAMILIES

if TYPE_CHECKING:
    from moetrace.tracer.model.families import RoutingRule
    from moetrace.tracer.plan.plan import Plan

# Bytes in the store of one decision, by the grid that weights are rounded to: measured, see the design of `routes`.
DECISION_BYTES = {"bf16": 1.83, "f16": 2.35}
# Bytes in the store of the other tables: measured with `moetrace trace bundled --corpus bundled`.
PROFILE_VALUE_BYTES = 3.35
TOKEN_BYTES = 2.62
TEXT_BYTES = 38.4
USAGE_ROW_BYTES = 34.3


@dataclass(frozen=True)
class Inspection:
    """What is known of a model before it runs; `checkpoint` is None where its files are not at hand."""

    facts: ModelFacts
    checkpoint: Checkpoint | None

    @property
    def known_family(self) -> bool:
        """Tell whether the routing rule comes from the family table, not from the names of the config's fields."""
        return self.facts.family in FAMILIES

    @property
    def decisions(self) -> int:
        """Return the routing decisions of one token: MoE layers times top-k."""
        return len(self.facts.moe_layers) * self.facts.top_k

    @property
    def router_values(self) -> int:
        """Return the router probabilities of one token or text: MoE layers times experts."""
        return len(self.facts.moe_layers) * self.facts.num_experts

    @property
    def parameters(self) -> int | None:
        """Return the parameters of the model, None where they are not known."""
        return self.checkpoint.parameters if self.checkpoint else None

    @property
    def active_parameters(self) -> int | None:
        """Return the parameters that one token goes through: all but the experts that were not chosen."""
        idle = self.facts.num_experts - self.facts.top_k
        unused = idle * len(self.facts.moe_layers) * self.facts.parameters_per_expert
        return None if self.parameters is None or self.parameters <= unused else self.parameters - unused

    def memory(self, tokens: int, texts: int) -> int:
        """Return the bytes that a shard takes while it is traced: ids, float32 weights, float32 profiles."""
        return self.facts.captured_bytes(tokens, texts, len(self.facts.moe_layers))

    def store_bytes(self, tokens: int, texts: int, shards: int) -> dict[str, dict[str, int]]:
        """Return the estimated bytes in the store: weight grid -> table -> bytes."""
        sizes = {
            "profiles": texts * self.router_values * PROFILE_VALUE_BYTES,
            "usage": shards * self.router_values * USAGE_ROW_BYTES,
            "tokens": tokens * TOKEN_BYTES,
            "sequences": texts * TEXT_BYTES,
        }
        rest = {table: round(size) for table, size in sizes.items()}
        return {
            grid: {"routes": round(tokens * self.decisions * size), **rest} for grid, size in DECISION_BYTES.items()
        }

    def record(self, shard_tokens: int) -> dict[str, Any]:
        """Return everything as JSON values: `model`, `routing` (with the rule in words), `store`."""
        facts = {name: value for name, value in asdict(self.facts).items() if name not in {"rule", "tokenizer"}}
        return {
            "model": {
                **facts,
                "known_family": self.known_family,
                "parameters": self.parameters,
                "active_parameters": self.active_parameters,
                "checkpoint_bytes": self.checkpoint.bytes if self.checkpoint else None,
            },
            "routing": {**asdict(self.facts.rule), "words": rule_in_words(self.facts.rule, self.facts.top_k)},
            "store": {
                "decisions_per_token": self.decisions,
                "routes_bytes_per_token": {grid: self.decisions * size for grid, size in DECISION_BYTES.items()},
                "profiles_bytes_per_text": self.router_values * PROFILE_VALUE_BYTES,
                "shard_tokens": shard_tokens,
                "shard_bytes_in_memory": self.memory(shard_tokens, 0),
                "profile_bytes_in_memory_per_text": self.router_values * 4,
            },
        }

    def corpus_record(self, plan: Plan, flops: float | None) -> dict[str, Any]:
        """Return what a planned corpus would take, as JSON values; `flops`: the machine's per second, for the time."""
        record = plan.corpus_record()
        return {
            **record,
            "missing": plan.missing,
            "largest_shard_bytes_in_memory": max(self.memory(shard.tokens, shard.texts) for shard in plan.shards),
            "store_bytes": {
                grid: sum(sizes.values())
                for grid, sizes in self.store_bytes(plan.tokens, plan.texts, len(plan.shards)).items()
            },
            "rough_seconds": self.seconds(plan.tokens, flops) if flops else None,
            "flops_per_second": flops,
        }

    def seconds(self, tokens: int, flops: float) -> float | None:
        """Return the seconds that the multiplications of `tokens` take: 2 per active parameter and token, no more.

        None where the active parameters are not known. Attention over long texts, memory traffic and start-up come on
        top; an accelerator takes its own rate.
        """
        return None if self.active_parameters is None else 2 * self.active_parameters * tokens / flops


def inspect_model(model: str, revision: str | None = None) -> Inspection:
    """Read a model's config and the headers of its weights.

    Raises MoetraceError where there is no such model, it is not a Mixture-of-Experts model, or a file is not whole.
    """
    return Inspection(read_facts(model, revision), read_checkpoint(model, revision))


def rule_in_words(rule: RoutingRule, top_k: int) -> str:
    """Say in a sentence how the gate weights of a token follow from its router logits."""
    if rule.sparsemixer:
        return (
            f"{top_k} experts one by one, the highest logit first, each weighted by a softmax over those not yet taken "
            f"(SparseMixer, epsilon {rule.sparsemixer:g})"
        )
    score = {"softmax": "softmax over the logits of all experts", "sigmoid": "sigmoid of each logit"}[rule.scoring]
    ranked = "score plus a learned bias" if rule.selection_bias else "score"
    among = ""
    if rule.groups > 1:
        by = {"max": "the best", "top2": "the sum of the two best"}[rule.group_score]
        among = f" among the {rule.groups_kept} best of {rule.groups} groups (a group counts {by} of its experts)"
    weights = "the scores made to sum to 1" if rule.normalized else "the scores as they are"
    scaled = "" if rule.scale == 1 else f", times {rule.scale:g}"
    experts = "the expert" if top_k == 1 else f"the {top_k} experts"
    return f"{score}; {experts} with the highest {ranked}{among}; weights are {weights}{scaled}"


def matmul_rate(seconds: float = 0.3, size: int = 1024) -> float:
    """Return this machine's floating-point operations a second: the fastest of NumPy float32 matrix products."""
    draw = np.random.default_rng(0)
    one, other = (draw.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    one @ other  # wakes the threads
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)

"""Facts about model families: how many experts there are and how gate weights are made from router logits.

A family is added by one line in `RULES`; nothing else in the tracer knows a family by name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Callable

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_KS = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "num_selected_experts")
EXPERT_SIZES = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")


@dataclass(frozen=True)
class RoutingRule:
    """How the gate weights of a token follow from its router logits.

    - scoring: how logits become scores, `softmax` or `sigmoid`; the router probability is the scores made to sum to 1
    - normalized: the weights of a token's k experts sum to `scale`
    - scale: the layer's routed scaling factor, part of the applied weight
    - selection_bias: experts are selected by score plus a learned bias that weights do not carry
    """

    scoring: str
    normalized: bool
    scale: float = 1.0
    selection_bias: bool = False


Config = dict[str, Any]


def _softmax(_: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=True)


def _softmax_by_config(config: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=bool(config.get("norm_topk_prob", False)))


def _softmax_unnormalized(_: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=False)


def _sigmoid_biased(config: Config) -> RoutingRule:
    scale = float(config.get("routed_scaling_factor", 1.0))
    return RoutingRule("sigmoid", bool(config.get("norm_topk_prob", True)), scale, selection_bias=True)


def _by_config(config: Config) -> RoutingRule:
    scoring = str(config.get("scoring_func", "softmax"))
    scale = float(config.get("routed_scaling_factor") or 1.0)
    return RoutingRule(scoring, bool(config.get("norm_topk_prob", False)), scale, scoring == "sigmoid")


RULES: dict[str, Callable[[Config], RoutingRule]] = {
    "deepseek_v2": _by_config,
    "deepseek_v3": _sigmoid_biased,
    "glm4_moe": _sigmoid_biased,
    "gpt_oss": _softmax,
    "granitemoe": _softmax,
    "llama4_text": lambda _: RoutingRule("sigmoid", normalized=False),
    "mixtral": _softmax,
    "olmoe": _softmax_by_config,
    "phimoe": _softmax_unnormalized,
    "qwen2_moe": _softmax_by_config,
    "qwen3_moe": _softmax_by_config,
}


@dataclass(frozen=True)
class ModelFacts:
    """What a model's config says about its routing, before any weight is loaded."""

    id: str
    revision: str | None
    family: str
    config_sha256: str
    num_layers: int
    num_experts: int
    top_k: int
    window: int
    rule: RoutingRule
    parameters_per_expert: int


def read_facts(model: str, revision: str | None = None) -> ModelFacts:
    """Read a model's config (a local folder or a hub id).

    Raises MoetraceError where there is no such model or it is not a Mixture-of-Experts model.
    """
    from transformers import PretrainedConfig  # noqa: PLC0415  seconds to import: only where a model is read

    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
        raise MoetraceError(f"{model}: no config.json in this folder; it is not a model checkpoint")
    try:
        config, _ = PretrainedConfig.get_config_dict(model, revision=revision)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise MoetraceError(
            f"{model}: cannot read a model config there ({first}); give a local folder or a hub id"
        ) from error
    text = config.get("text_config") or config
    family = str(text.get("model_type", config.get("model_type")))
    num_experts = next((int(text[key]) for key in EXPERT_COUNTS if text.get(key)), 0)
    top_k = next((int(text[key]) for key in TOP_KS if text.get(key)), 0)
    if not num_experts or not top_k:
        raise MoetraceError(f"{model}: not a Mixture-of-Experts model (its config, family {family}, names no experts)")
    size = next(int(text[key]) for key in EXPERT_SIZES if text.get(key))
    return ModelFacts(
        id=model,
        revision=revision,
        family=family,
        config_sha256=hashlib.sha256(
            json.dumps(_architecture(config), sort_keys=True, default=str).encode()
        ).hexdigest(),
        num_layers=int(text["num_hidden_layers"]),
        num_experts=num_experts,
        top_k=top_k,
        window=int(text.get("max_position_embeddings") or 2048),
        rule=RULES.get(family, _by_config)(text),
        parameters_per_expert=3 * int(text["hidden_size"]) * size,
    )


def _architecture(config: Config) -> Config:
    """Return the part of a config that says what the model is, not who saved it or where it lies."""
    return {key: value for key, value in config.items() if key not in {"_name_or_path", "transformers_version"}}

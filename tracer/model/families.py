"""The table of model families: how each makes gate weights from router logits, and which of its layers are MoE.

A family is one line of `FAMILIES`, keyed by the `model_type` of its config. Each line was read off the family's own
modelling code in transformers 5 and is compared with it by tests/end_to_end/test_families.py. A family that is not
there gets `UNKNOWN`: a guess from the names of its config's fields, which the self-check at start-up confirms or
refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Config = dict[str, Any]


@dataclass(frozen=True)
class RoutingRule:
    """How the experts and gate weights of a token follow from its router logits.

    - scoring: how logits become scores, `softmax` or `sigmoid`; the router probability is the scores made to sum to 1
    - normalized: the weights of a token's k experts sum to `scale` (a softmax over the k chosen logits is the same)
    - scale: the layer's routed scaling factor, part of the applied weight
    - selection_bias: experts are selected by score plus a learned bias that weights do not carry
    - groups, groups_kept: experts stand in `groups` equal groups, and only those of the best `groups_kept` are eligible
    - group_score: what a group is ranked by, its best expert's score (`max`) or the sum of its two best (`top2`)
    - sparsemixer: 0, or the epsilon of SparseMixer (arXiv 2409.12136): experts are taken one by one, each weighted by
      a softmax over the experts not yet taken whose logits are less than 2 epsilon, relatively, below its own
    """

    scoring: str
    normalized: bool
    scale: float = 1.0
    selection_bias: bool = False
    groups: int = 1
    groups_kept: int = 1
    group_score: str = "max"
    sparsemixer: float = 0.0


def _softmax(_: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=True)


def _softmax_as_configured(config: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=bool(config.get("norm_topk_prob", False)))


def _softmax_normalized_by_default(config: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=bool(config.get("norm_topk_prob", True)))


def _softmax_biased(_: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=True, selection_bias=True)


def _sigmoid_in_groups(config: Config) -> RoutingRule:
    groups, kept = _groups(config)
    return RoutingRule(
        "sigmoid",
        normalized=bool(config.get("norm_topk_prob", True)),
        scale=_scale(config),
        selection_bias=True,
        groups=groups,
        groups_kept=kept,
        group_score="top2",
    )


def _deepseek_v2(config: Config) -> RoutingRule:
    groups, kept = _groups(config) if config.get("topk_method") == "group_limited_greedy" else (1, 1)
    normalized = bool(config.get("norm_topk_prob", False))
    return RoutingRule("softmax", normalized, _scale(config), groups=groups, groups_kept=kept)


def _lfm2_moe(config: Config) -> RoutingRule:
    biased = bool(config.get("use_expert_bias", True))
    return RoutingRule("sigmoid", bool(config.get("norm_topk_prob", True)), _scale(config), biased)


def _minimax_m2(config: Config) -> RoutingRule:
    scoring = str(config.get("scoring_func", "sigmoid"))
    return RoutingRule(scoring, normalized=True, selection_bias=bool(config.get("use_routing_bias", True)))


def _phimoe(config: Config) -> RoutingRule:
    return RoutingRule("softmax", normalized=False, sparsemixer=float(config.get("router_jitter_noise", 0.01)))


def _by_names(config: Config) -> RoutingRule:
    scoring = str(config.get("scoring_func", "softmax"))
    biased = config.get("topk_method") == "noaux_tc" or (scoring == "sigmoid" and "topk_method" not in config)
    groups, kept = _groups(config)
    return RoutingRule(
        scoring,
        normalized=bool(config.get("norm_topk_prob", False)),
        scale=_scale(config),
        selection_bias=biased,
        groups=groups,
        groups_kept=kept,
        group_score="top2" if biased else "max",
    )


def _scale(config: Config) -> float:
    return float(config.get("routed_scaling_factor") or 1.0)


def _groups(config: Config) -> tuple[int, int]:
    """Return the number of groups and of those kept; (1, 1) where every group is kept, which limits nothing."""
    groups = int(config.get("n_group") or 1)
    kept = int(config.get("topk_group") or groups)
    return (groups, kept) if kept < groups else (1, 1)


def _every_layer(_config: Config, _layer: int) -> bool:
    return True


def _after_dense_ones(config: Config, layer: int) -> bool:
    first = int(config.get("first_k_dense_replace") or config.get("num_dense_layers") or 0)
    return layer >= first and layer % int(config.get("moe_layer_freq") or 1) == 0


def _by_sparse_step(config: Config, layer: int) -> bool:
    step = int(config.get("decoder_sparse_step") or 1)
    return layer not in (config.get("mlp_only_layers") or ()) and (layer + 1) % step == 0


def _interleaved(config: Config, layer: int) -> bool:
    listed = config.get("moe_layers")
    return layer in listed if listed else (layer + 1) % int(config.get("interleave_moe_layer_step") or 1) == 0


def _from_start_to_end(config: Config, layer: int) -> bool:
    end = int(config.get("moe_layer_end_index", -1))
    inside = int(config.get("moe_layer_start_index", 0)) <= layer and (end < 0 or layer <= end)
    return inside and (layer + 1) % int(config.get("moe_layer_interval") or 1) == 0


def _periodic(config: Config, layer: int) -> bool:
    period, offset = int(config.get("expert_layer_period", 2)), int(config.get("expert_layer_offset", 1))
    return layer % period == offset


def _by_layer_names(config: Config, layer: int) -> bool:
    return _after_dense_ones(config, layer) and _by_sparse_step(config, layer)


def _none(_: Config) -> int:
    return 0


def _one(_: Config) -> int:
    return 1


def _counted(config: Config) -> int:
    return int(config.get("n_shared_experts") or config.get("moe_num_shared_experts") or 0)


def _one_if_sized(config: Config) -> int:
    return int(bool(config.get("shared_expert_intermediate_size")))


@dataclass(frozen=True)
class Family:
    """What is known of a family: its routing rule, which decoder layers are MoE, how many experts every token shares.

    `biases` tells that an expert's three matrices carry bias vectors.
    """

    rule: Callable[[Config], RoutingRule]
    is_moe_layer: Callable[[Config, int], bool] = _every_layer
    shared_experts: Callable[[Config], int] = _none
    biases: bool = False


FAMILIES: dict[str, Family] = {
    "deepseek_v2": Family(_deepseek_v2, _after_dense_ones, _counted),
    "deepseek_v3": Family(_sigmoid_in_groups, _after_dense_ones, _counted),
    "dots1": Family(_sigmoid_in_groups, _after_dense_ones, _counted),
    "ernie4_5_moe": Family(_softmax_biased, _from_start_to_end, _counted),
    "flex_olmo": Family(_softmax_as_configured),
    "glm4_moe": Family(_sigmoid_in_groups, _after_dense_ones, _counted),
    "gpt_oss": Family(_softmax, biases=True),
    "granitemoe": Family(_softmax),
    "hunyuan_v1_moe": Family(_softmax, shared_experts=_one),
    "jamba": Family(lambda _: RoutingRule("softmax", normalized=False), _periodic),
    "lfm2_moe": Family(_lfm2_moe, _after_dense_ones),
    "llama4_text": Family(lambda _: RoutingRule("sigmoid", normalized=False), _interleaved, _one),
    "minimax_m2": Family(_minimax_m2),
    "mixtral": Family(_softmax),
    "olmoe": Family(_softmax_as_configured),
    "phimoe": Family(_phimoe),
    "qwen2_moe": Family(_softmax_as_configured, _by_sparse_step, _one_if_sized),
    "qwen3_moe": Family(_softmax_as_configured, _by_sparse_step),
    "qwen3_next": Family(_softmax_normalized_by_default, _by_sparse_step, _one_if_sized),
}

UNKNOWN = Family(_by_names, _by_layer_names, _counted)

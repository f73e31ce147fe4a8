"""Where a model keeps its routed experts: the names of the parameters, by family, in transformers 5 and newer.

All experts of a layer are fused into a few parameters whose first dimension is the expert. Every line is compared with
the family's own model by tests/analytics/masks/test_formats.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from moetrace.store.errors import MoetraceError


class UnknownFamilyError(MoetraceError):
    """The parameters of a family's experts are not known."""


@dataclass(frozen=True)
class ExpertParameters:
    """The module of a layer's experts, under `model.layers.<layer>.`, and its parameters, each [experts, ...]."""

    module: str = "mlp.experts"
    parameters: tuple[str, ...] = ("gate_up_proj", "down_proj")

    def of_layer(self, layer: int) -> list[str]:
        """Return the full names of the parameters of one decoder layer."""
        return [f"model.layers.{layer}.{self.module}.{name}" for name in self.parameters]


_MLP = ExpertParameters()
_FEED_FORWARD = ExpertParameters("feed_forward.experts")

EXPERT_PARAMETERS: dict[str, ExpertParameters] = {
    "deepseek_v2": _MLP,
    "deepseek_v3": _MLP,
    "dots1": _MLP,
    "ernie4_5_moe": _MLP,
    "flex_olmo": _MLP,
    "glm4_moe": _MLP,
    "gpt_oss": ExpertParameters(
        parameters=("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"),
    ),
    "granitemoe": ExpertParameters("block_sparse_moe.experts"),
    "hunyuan_v1_moe": _MLP,
    "jamba": _FEED_FORWARD,
    "lfm2_moe": _FEED_FORWARD,
    "llama4_text": _FEED_FORWARD,
    "minimax_m2": _MLP,
    "mixtral": _MLP,
    "olmoe": _MLP,
    "phimoe": _MLP,
    "qwen2_moe": _MLP,
    "qwen3_moe": _MLP,
    "qwen3_next": _MLP,
}


def expert_parameters(family: str | None) -> ExpertParameters:
    """Return where the experts of a family are kept; raise UnknownFamilyError, naming those that are known."""
    if family is None:
        raise UnknownFamilyError(
            "the model's family is not known, so neither are its experts' parameters; trace the model instead of "
            "importing its counts, or use another format"
        )
    if family not in EXPERT_PARAMETERS:
        raise UnknownFamilyError(
            f"the parameters of the experts of family '{family}' are not known; known: {', '.join(EXPERT_PARAMETERS)}"
        )
    return EXPERT_PARAMETERS[family]

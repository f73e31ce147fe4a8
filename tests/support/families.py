"""Tiny models, one or two of each family, with the routing that the family's real configs ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 256
EXPERTS = 16

ROUTER_SET_RIGHT = "vLLM's CPU router set right by `tracer/worker/cpu_fixes.py`"
ROTARY_SET_RIGHT = "vLLM's CPU rotary embedding set right by `tracer/engine/cpu_options.py`"
TRANSFORMERS_CODE = "vLLM runs it by transformers' code, and routes itself"

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
MLA = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 512,  # vLLM's kernels for multi-head latent attention have DeepSeek's own sizes built in
    "q_lora_rank": 48,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "head_dim": 64,
    "max_position_embeddings": 163840,
}


def yarn(mscale: float) -> dict[str, Any]:
    """The rotary embedding of DeepSeek-V2 (mscale 0.707) and V3 (1.0)."""
    return {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }


@dataclass(frozen=True)
class TinyFamily:
    """How a family's checkpoint is made.

    - config: the name of transformers' config class, and what its config says beside `COMMON`
    - written: what config.json says that the class does not know, as the hub's own files do
    - moe_layers, shared_experts: what must be read off its config
    - dtypes: what it is run in; refused: what an engine on a CPU says in float32 where it cannot be traced there
    - as_is: what the refusal in float32 says where vLLM on a CPU is left as it is, without `tracer/worker/cpu_fixes.py`
    - note: what a reader of the table of results should know
    - quantize: experts are kept in float8, a scale for each block of 128 x 128, as hub checkpoints named FP8 are
    """

    config: str
    options: dict[str, Any]
    moe_layers: tuple[int, ...] = (0, 1, 2, 3)
    shared_experts: int = 0
    written: dict[str, Any] = field(default_factory=dict)
    quantize: bool = False
    dtypes: tuple[str, ...] = ("float32",)
    refused: str = ""
    as_is: str = ""
    note: str = ""


TINY = {
    "mixtral": TinyFamily("MixtralConfig", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "olmoe": TinyFamily("OlmoeConfig", {"num_experts": EXPERTS, "num_experts_per_tok": 4, "norm_topk_prob": False}),
    "flex_olmo": TinyFamily(
        "FlexOlmoConfig",
        {"num_experts": 7, "num_experts_per_tok": 5, "norm_topk_prob": False},
        note=TRANSFORMERS_CODE,
    ),
    "qwen2_moe": TinyFamily(
        "Qwen2MoeConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
            "norm_topk_prob": False,
            "mlp_only_layers": [0],
        },
        moe_layers=(1, 2, 3),
        shared_experts=1,
    ),
    "qwen3_moe": TinyFamily(
        "Qwen3MoeConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
        },
        moe_layers=(1, 3),
    ),
    "qwen3_moe-fp8": TinyFamily(
        "Qwen3MoeConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "hidden_size": 128,  # a block of the quantisation
            "moe_intermediate_size": 128,
            "norm_topk_prob": True,
        },
        written={
            "quantization_config": {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [128, 128],
                "modules_to_not_convert": [
                    "lm_head",
                    *(
                        f"model.layers.{layer}.{name}"
                        for layer in range(4)
                        for name in ("mlp.gate", *(f"self_attn.{part}_proj" for part in "qkvo"))
                    ),
                ],
            }
        },
        quantize=True,
        dtypes=("bfloat16",),
        note="experts in float8, on CPUs with AMX",
    ),
    "qwen3_next": TinyFamily(
        "Qwen3NextConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "norm_topk_prob": True,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        shared_experts=1,
        dtypes=("bfloat16", "float32"),
        refused="CPU GDN attention requires BF16",
        note="its linear attention takes bfloat16 only on a CPU",
    ),
    "phimoe": TinyFamily(
        "PhimoeConfig",
        {
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "router_jitter_noise": 0.01,
            "attention_bias": True,
            "lm_head_bias": True,
        },
        written={"architectures": ["PhiMoEForCausalLM"]},
        note="SparseMixer: a token's two weights do not sum to 1",
    ),
    "granitemoe": TinyFamily(
        "GraniteMoeConfig",
        {
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "attention_multiplier": 0.125,
            "embedding_multiplier": 12.0,
            "logits_scaling": 6.0,
            "residual_multiplier": 0.22,
        },
    ),
    "gpt_oss": TinyFamily(
        "GptOssConfig",
        {
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "sliding_window": 32,
            "max_position_embeddings": 131072,
        },
    ),
    "glm4_moe": TinyFamily(
        "Glm4MoeConfig",
        {
            "n_routed_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "n_group": 1,
            "topk_group": 1,
            "use_qk_norm": True,
        },
        moe_layers=(1, 2, 3),
        shared_experts=1,
    ),
    "dots1": TinyFamily(
        "Dots1Config",
        {
            "n_routed_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "n_group": 1,
            "topk_group": 1,
        },
        moe_layers=(1, 2, 3),
        shared_experts=2,
        written={"scoring_func": "noaux_tc"},
        note=TRANSFORMERS_CODE,
    ),
    "deepseek_v2": TinyFamily(
        "DeepseekV2Config",
        {
            **MLA,
            "n_routed_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "norm_topk_prob": False,
            "routed_scaling_factor": 16.0,
            "rope_parameters": yarn(0.707),
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
        },
        moe_layers=(1, 2, 3),
        shared_experts=2,
        written={"scoring_func": "softmax", "moe_layer_freq": 1},
        dtypes=("float32", "bfloat16"),
        note="YaRN, as its real configs",
    ),
    "deepseek_v3": TinyFamily(
        "DeepseekV3Config",
        {
            **MLA,
            "rope_parameters": yarn(1.0),
            "n_routed_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "n_group": 4,
            "topk_group": 2,
        },
        moe_layers=(1, 2, 3),
        shared_experts=1,
        written={"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1},
        dtypes=("float32", "bfloat16"),
        note="YaRN, as its real configs",
    ),
    "deepseek_v3-rope": TinyFamily(
        "DeepseekV3Config",
        {
            **MLA,
            "n_routed_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "n_group": 1,
            "topk_group": 1,
        },
        moe_layers=(1, 2, 3),
        shared_experts=1,
        written={"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1},
        note=f"plain rotary embedding, no YaRN; {ROTARY_SET_RIGHT}",
    ),
    "llama4_text": TinyFamily(
        "Llama4TextConfig",
        {
            "num_local_experts": EXPERTS,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 96,
            "intermediate_size": 32,
            "attention_chunk_size": 128,
        },
        moe_layers=(1, 3),
        shared_experts=1,
        note="the weight multiplies an expert's input",
    ),
    "hunyuan_v1_moe": TinyFamily(
        "HunYuanMoEV1Config",
        {"num_experts": EXPERTS, "moe_topk": [4, 4, 4, 4]},
        shared_experts=1,
        note="vLLM runs it by transformers' code, and leaves it to route",
    ),
    "ernie4_5_moe": TinyFamily(
        "Ernie4_5_MoeConfig",
        {
            "moe_num_experts": EXPERTS,
            "moe_k": 4,
            "moe_intermediate_size": 32,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 3,
            "moe_layer_interval": 1,
        },
        moe_layers=(1, 2, 3),
        shared_experts=2,
        as_is="layer 1: .* leaves out the selection bias",
        note=ROUTER_SET_RIGHT,
    ),
    "minimax_m2": TinyFamily(
        "MiniMaxM2Config",
        {"num_local_experts": EXPERTS, "num_experts_per_tok": 4},
        written={"scoring_func": "sigmoid", "use_routing_bias": True, "rotary_dim": 32},
        as_is='assert self.scoring_func == "softmax"',
        note=ROUTER_SET_RIGHT,
    ),
    "jamba": TinyFamily(
        "JambaConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        moe_layers=(1, 3),
        refused="no attribute 'selective_scan_fwd'",
        note="vLLM has no kernel of its state-space layers for a CPU",
    ),
    "lfm2_moe": TinyFamily(
        "Lfm2MoeConfig",
        {
            "num_experts": EXPERTS,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 32,
            "num_dense_layers": 2,
            "use_expert_bias": True,
            "routed_scaling_factor": 2.0,
            "norm_topk_prob": True,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
        },
        moe_layers=(2, 3),
        as_is="rows were routed differently when their texts changed places",
        note=ROTARY_SET_RIGHT,
    ),
}

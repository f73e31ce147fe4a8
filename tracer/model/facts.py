"""Facts about a model, read from its config before any weight is loaded; families are in families.py."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from moetrace.store.errors import MoetraceError
from moetrace.store.format.expert_ids import expert_dtype
from moetrace.tracer.model.families import FAMILIES, UNKNOWN, Config, RoutingRule

EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_KS = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "num_selected_experts")
EXPERT_SIZES = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")


@dataclass(frozen=True)
class ModelFacts:
    """What a model's config says about its routing, before any weight is loaded.

    - moe_layers: the decoder layers that are MoE, ascending; the engine's own are what a run record keeps
    - shared_experts: experts of a MoE layer that every token goes through; they are not routed to and not counted
    - parameters_per_expert: of one routed expert
    - latent_attention: keys and values are kept compressed (DeepSeek's multi-head latent attention)
    - tokenizer: where the model's tokenizer is, None: with the model
    """

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
    moe_layers: tuple[int, ...]
    shared_experts: int
    latent_attention: bool
    tokenizer: str | None = None

    def captured_bytes(self, tokens: int, texts: int, layers: int) -> int:
        """Return the bytes that captured tokens of texts take in memory: ids, float32 weights, float32 profiles."""
        ids = expert_dtype(self.num_experts).itemsize
        return layers * (tokens * self.top_k * (ids + 4) + texts * self.num_experts * 4)


def read_config(model: str, revision: str | None = None) -> Config:
    """Read a model's config.json (of a local folder or a hub id); nothing of transformers is imported for it.

    Raises MoetraceError where there is none or it is not JSON.
    """
    try:
        if Path(model).is_dir():
            path = Path(model) / "config.json"
            if not path.is_file():
                raise MoetraceError(f"{model}: no config.json in this folder; it is not a model checkpoint")
        else:
            from huggingface_hub import hf_hub_download  # noqa: PLC0415  slow to import: only for a model of the hub
            from huggingface_hub.utils import logging as hub_logging  # noqa: PLC0415

            # It logs each of its retries twice; our message says what came of them.
            hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
            path = Path(hf_hub_download(model, "config.json", revision=revision))
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MoetraceError(
            f"{model}: cannot read a model config there ({first}); give a local folder or a hub id"
        ) from error
    if not isinstance(config, dict):
        raise MoetraceError(f"{model}: its config.json is no JSON object; it is not a model checkpoint")
    return config


def read_facts(model: str, revision: str | None = None) -> ModelFacts:
    """Read a model's config (a local folder or a hub id).

    Raises MoetraceError where there is no such model or it is not a Mixture-of-Experts model.
    """
    config = read_config(model, revision)
    text = config.get("text_config") or config
    name = str(text.get("model_type", config.get("model_type")))
    num_experts, top_k = (first_value(text, keys, model) for keys in (EXPERT_COUNTS, TOP_KS))
    if not num_experts or not top_k:
        raise MoetraceError(f"{model}: not a Mixture-of-Experts model (its config, family {name}, names no experts)")
    for key in ("num_hidden_layers", "hidden_size"):
        if not text.get(key):
            raise MoetraceError(f"{model}: its config has no {key}; it is not the config of a whole model")
    family = FAMILIES.get(name, UNKNOWN)
    num_layers = int(text["num_hidden_layers"])
    return ModelFacts(
        id=model,
        revision=revision,
        family=name,
        config_sha256=hashlib.sha256(
            json.dumps(_architecture(config), sort_keys=True, default=str).encode()
        ).hexdigest(),
        num_layers=num_layers,
        num_experts=num_experts,
        top_k=top_k,
        window=int(text.get("max_position_embeddings") or 2048),
        rule=family.rule(text),
        parameters_per_expert=_expert_parameters(text, model, biases=family.biases),
        moe_layers=tuple(layer for layer in range(num_layers) if family.is_moe_layer(text, layer)),
        shared_experts=family.shared_experts(text),
        latent_attention=bool(text.get("kv_lora_rank")),
    )


def first_value(config: Config, keys: tuple[str, ...], model: str) -> int:
    """Return the first of `keys` that the config has, 0 where it has none; a list must say the same for every layer."""
    for key in keys:
        values = set(value if isinstance(value := config.get(key), list) else [value])
        if len(values) > 1:
            raise MoetraceError(f"{model}: {key} differs between layers ({sorted(values)}); a trace has one for all")
        if value := values.pop() if values else None:
            return int(value)
    return 0


def _expert_parameters(config: Config, model: str, *, biases: bool) -> int:
    """Return the parameters of one expert: gate, up and down projection."""
    hidden, size = int(config["hidden_size"]), first_value(config, EXPERT_SIZES, model)
    return 3 * hidden * size + (2 * size + hidden if biases else 0)


def _architecture(config: Config) -> Config:
    """Return the part of a config that says what the model is, not who saved it or where it lies."""
    return {key: value for key, value in config.items() if key not in {"_name_or_path", "transformers_version"}}

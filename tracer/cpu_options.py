"""Options that vLLM needs on a CPU to compute what the model says.

Both were found by comparing vLLM 0.32's layers with transformers' (tests/test_families.py shows that they suffice):

- The CPU kernel of rotary embeddings takes a query of shape [tokens, heads, size] for `tokens` rows of one head: of the
  flattened [tokens x heads], row i gets position i and rows from `tokens` on get none. Models that pass such queries
  (DeepSeek-V2 and V3, LFM2) attend wrongly from the second token on, in every dtype. Compiled engines do not use the
  kernel; eager ones are told to rotate by PyTorch operations.
- On CPUs with AMX, vLLM picks an attention for multi-head latent attention that takes bfloat16 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracer.families import ModelFacts


def cpu_options(facts: ModelFacts, dtype: str, *, eager: bool) -> dict[str, Any]:
    """Return the arguments of vllm.LLM that an engine of this model needs on a CPU."""
    options: dict[str, Any] = {}
    if eager:
        options["compilation_config"] = {"custom_ops": ["all", "-rotary_embedding"]}
    if facts.latent_attention and dtype != "bfloat16":
        options["attention_backend"] = "CPU_MLA"
    return options

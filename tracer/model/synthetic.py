"""What a trace without a model takes for one: a shape alone, or a model's config and tokenizer without its weights."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from moetrace.store.errors import MoetraceError
from moetrace.store.format.record_schemas import MOST_EXPERTS, MOST_LAYERS, MOST_POOL
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.model.facts import ModelFacts, read_facts
from moetrace.tracer.model.families import RoutingRule
from moetrace.tracer.model.record import model_id

SHAPE = re.compile(r"(?P<layers>[0-9]{1,6})x(?P<experts>[0-9]{1,6})x(?P<top_k>[0-9]{1,6})")
WINDOW = 32768  # tokens that a text may have where only a shape is known


def synthetic_facts(model: str, revision: str | None = None) -> ModelFacts:
    """Return the facts of a model that is not run: of a shape, such as `48x128x8`, or of any model that has a config.

    A shape is MoE layers x experts of each x experts a token is sent to; its tokens are the bundled model's. The id
    says that routing is made up, and the config's digest is no model's: no mask made of such a run fits one.
    Raises MoetraceError where there is no such model, it is not a Mixture-of-Experts model, or the shape is none.
    """
    shape = SHAPE.fullmatch(model)
    facts = _of_shape(model, *map(int, shape.groups())) if shape else read_facts(model, revision)
    digest = hashlib.sha256(f"synthetic {facts.config_sha256}".encode()).hexdigest()
    return replace(
        facts, id=f"synthetic:{model_id(model)}", config_sha256=digest, tokenizer=str(MODEL) if shape else model
    )


def _of_shape(shape: str, layers: int, experts: int, top_k: int) -> ModelFacts:
    if not (1 <= layers <= MOST_LAYERS and 1 <= top_k <= experts <= MOST_EXPERTS and layers * experts <= MOST_POOL):
        raise MoetraceError(
            f"{shape}: no shape of a model; give MoE layers x experts x top-k, such as 48x128x8, top-k at most experts"
        )
    return ModelFacts(
        id=shape,
        revision=None,
        family="synthetic",
        config_sha256=shape,
        num_layers=layers,
        num_experts=experts,
        top_k=top_k,
        window=WINDOW,
        rule=RoutingRule("softmax", normalized=True),
        parameters_per_expert=0,
        moe_layers=tuple(range(layers)),
        shared_experts=0,
        latent_attention=False,
    )

"""Filters of a trace, against transformers: what is left is the unfiltered routing without the tokens left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.shard.rollup import UsageRollup
from moetrace.tracer.bundled import CORPUS, MODEL
from moetrace.tracer.corpus.corpus import open_corpus
from moetrace.tracer.model.tokenizer import special_token_ids
from moetrace.tracer.plan.plan import make_plan
from moetrace.tracer.plan.prompts import PromptSettings, encoder
from moetrace.tracer.plan.token_filter import TokenFilter
from tests.reference.routing import Reference, in_rank_order
from tests.support.stores import make_record

if TYPE_CHECKING:
    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.plan.plan import Plan
    from moetrace.tracer.plan.shards import PlannedShard

pytestmark = pytest.mark.engine

TOLERANCE = 1e-5
LATE = 45  # positions that some texts do not reach
TEMPLATE = "{% for message in messages %}{{ eos_token }}{{ message.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def special() -> tuple[int, ...]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    found = tuple(special_token_ids(tokenizer))
    assert tokenizer.eos_token_id in found
    return found


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Eight texts of two languages between end tokens, every other one four times: several chunks when stressed."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    encode = encoder(tokenizer, PromptSettings(chat=True, chat_template=TEMPLATE), answered=False)
    corpus = open_corpus(str(CORPUS)).only(("eng_Latn", "swh_Latn"))

    def longer(texts: list[str]) -> list[list[int]]:
        return [ids * (1 + 3 * (number % 2)) for number, ids in enumerate(encode(texts))]

    return make_plan(corpus, longer, shard_tokens=400, window=300, limit=8)


def generation(new_tokens: int) -> Generation:
    from transformers import AutoTokenizer

    from moetrace.tracer.engine.generation import Generation

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return Generation(new_tokens, tokenizer.decode, (tokenizer.eos_token_id,))


def usage_of(shard: Shard) -> dict[str, np.ndarray]:
    """The roll-up that the store would have of a shard."""
    layers, top_k, _ = shard.experts.shape
    record = make_record(moe_layers=list(range(layers)), num_experts=shard.profiles.shape[2], top_k=top_k)
    rollup = UsageRollup(shard, record)
    for layer in range(layers):
        rollup.add_layer(shard.experts[layer], shard.weights[layer])
    (table,) = rollup.table()
    return {name: table.column(name).to_numpy().reshape(layers, -1) for name in table.column_names[2:]}


def check_filtered(
    planned: PlannedShard, whole: Shard, filtered: Shard, left_out: TokenFilter, reference: Reference
) -> None:
    """Compare a filtered shard with transformers' routing of the whole texts, without the tokens left out."""
    whole_experts, _ = in_rank_order(whole)
    experts, weights = in_rank_order(filtered)
    layers, size = whole.profiles.shape[0], whole.profiles.shape[2]
    want = {
        name: np.zeros((layers, size))
        for name in ("count", "weight_sum", "sequence_share_sum", "probability_sum", "sequence_probability_sum")
    }
    start = kept_start = index = 0
    aside = []
    for number, prompt in enumerate(planned.token_ids):
        rows = slice(start, start + int(whole.lengths[number]))
        start = rows.stop
        ids = whole.token_ids[rows]
        (probabilities, want_weights, want_experts), _ = reference.route(ids, whole_experts[rows])
        kept = [
            position
            for position, token_id in enumerate(ids.tolist())
            if position >= left_out.skip_positions
            and token_id not in left_out.special
            and not (left_out.prompt_only and position >= len(prompt))
        ]
        if not kept:
            aside.append(planned.text_ids[number])
            continue
        mine = slice(kept_start, kept_start + len(kept))
        kept_start = mine.stop
        assert (filtered.text_ids[index], filtered.seqs[index]) == (planned.text_ids[number], planned.seqs[number])
        assert filtered.lengths[index] == len(kept)
        assert filtered.positions()[mine].tolist() == kept
        assert filtered.token_ids[mine].tolist() == ids[kept].tolist()
        assert filtered.generated_tokens()[mine].tolist() == [position >= len(prompt) for position in kept]
        if whole.texts is not None:
            assert filtered.texts[index] == whole.texts[number]
        assert np.array_equal(np.sort(experts[mine], -1), np.sort(want_experts[kept], -1))
        assert np.abs(weights[mine] + np.sort(-want_weights[kept], -1)).max() < TOLERANCE
        assert np.abs(filtered.profiles[:, index] - probabilities[kept].mean(axis=0)).max() < TOLERANCE
        chosen = want_experts[kept][..., None] == np.arange(size)  # [T, L, k, E]
        want["count"] += chosen.sum(axis=(0, 2))
        want["weight_sum"] += (chosen * want_weights[kept][..., None]).sum(axis=(0, 2))
        want["sequence_share_sum"] += chosen.mean(axis=(0, 2))
        want["probability_sum"] += probabilities[kept].sum(axis=0)
        want["sequence_probability_sum"] += probabilities[kept].mean(axis=0)
        index += 1
    assert (index, kept_start) == (len(filtered.seqs), filtered.tokens)
    assert [text.text_id for text in filtered.set_aside] == aside
    found = usage_of(filtered)
    for name, values in want.items():
        assert np.abs(found[name] - values).max() < (1e-3 if name != "count" else 0.5), name


@pytest.mark.parametrize(
    ("settings", "new_tokens"),
    [
        ({"skip_positions": 1}, 0),
        ({"special": True}, 0),
        ({"prompt_only": True}, 9),
        ({"prompt_only": True, "skip_positions": 12, "special": True}, 9),
        ({"skip_positions": LATE, "special": True}, 9),
    ],
)
def test_what_is_left_is_routed_as_in_transformers_in_chunks_too(
    engine: TracedEngine,
    stressed: TracedEngine,
    plan: Plan,
    reference: Reference,
    special: tuple[int, ...],
    settings: dict[str, bool | int],
    new_tokens: int,
) -> None:
    left_out = TokenFilter(**{**settings, "special": special if settings.get("special") else ()})
    going_on = generation(new_tokens) if new_tokens else None
    whole = {shard.key: shard for shard in engine.trace(plan.shards, generation=going_on)}
    for used in (engine, stressed):
        filtered = {shard.key: shard for shard in used.trace(plan.shards, None, going_on, None, left_out)}
        assert sum(shard.tokens for shard in filtered.values()) < sum(shard.tokens for shard in whole.values())
        for planned in plan.shards:
            check_filtered(planned, whole[planned.key], filtered[planned.key], left_out, reference)
        aside = [text for shard in filtered.values() for text in shard.set_aside]
        assert bool(aside) == (left_out.skip_positions == LATE)
    again = {shard.key: shard for shard in engine.trace(plan.shards, generation=going_on)}
    for key, shard in whole.items():
        assert np.array_equal(again[key].profiles, shard.profiles), "a filter left something behind"

"""What the texts of each language are made of."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.reference.metrics.totals import Row
    from tests.support.stores import World


def corpus_profile(
    world: World, generated: Mapping[tuple[str, str], int], truncated: Collection[tuple[str, str]]
) -> list[Row]:
    """Profile a world in which the last `generated` tokens of a text (lang, text id) are the model's own."""
    special = world.record.special_token_ids
    pivot = world.record.corpus["pivot"]
    prompts = {
        lang: {
            text.text_id: tuple(text.token_ids[: len(text.token_ids) - generated.get((lang, text.text_id), 0)])
            for text in texts
        }
        for lang, texts in world.texts.items()
    }
    everywhere = set.intersection(*(set(texts) for texts in prompts.values()))
    rows = []
    for lang, texts in world.texts.items():
        ids = [token_id for text in texts for token_id in text.token_ids.tolist()]
        shared = prompts[lang].keys() & prompts[pivot].keys()
        own, others = (sum(len(prompts[of][text]) for text in shared) for of in (lang, pivot))
        model_made = sum(generated.get((lang, text.text_id), 0) for text in texts)
        repeated = Counter(prompts[lang].values())
        rows.append(
            {
                "run": world.record.run,
                "lang": lang,
                "texts": len(texts),
                "tokens": len(ids),
                "tokens_per_text": len(ids) / len(texts),
                "fertility": own / others if world.record.parallel and others else None,
                "prompt_tokens": len(ids) - model_made,
                "generated_tokens": model_made,
                "special_tokens": None if special is None else sum(token_id in special for token_id in ids),
                "truncated_texts": sum((lang, text.text_id) in truncated for text in texts),
                "duplicate_texts": sum(number for number in repeated.values() if number > 1),
                "shared_texts": len(everywhere) if world.record.parallel else None,
            }
        )
    return rows

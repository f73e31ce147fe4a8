"""Putting sequences to an engine: how likely it finds them, and what it writes after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.tracer.worker import STEER_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vllm import LLM

    from moetrace.tracer.evaluation.scored import Scored

AT_ONCE = 1 << 16  # tokens that are given to the engine together: what it returns of each is held until all are done


class Asking:
    """An engine, and what its requests carry."""

    def __init__(
        self, llm: LLM, named: str, said: Callable[[Sequence[str]], None], counted: Callable[[int], None]
    ) -> None:
        """Take an engine whose requests are to name an intervention.

        - said: called with the names of the requests that come next
        - counted: called with the number of their tokens, once they are answered
        """
        self._llm, self._named, self._said, self._counted = llm, named, said, counted

    def log_likelihoods(self, sequences: Sequence[Scored], ids: Sequence[str]) -> list[float]:
        """Return the sum of ln P of the tokens that count, of each sequence, in nats; ids: what each is called."""
        from vllm import SamplingParams  # noqa: PLC0415  loaded where an engine is

        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, extra_args={STEER_KEY: self._named}
        )
        found: list[float] = []
        for start, end in _portions([len(one.token_ids) for one in sequences]):
            portion = sequences[start:end]
            for one, output in zip(portion, self._run(portion, ids[start:end], params), strict=True):
                given = output.prompt_logprobs
                places = range(one.first, len(one.token_ids))
                found.append(sum(given[at][one.token_ids[at]].logprob for at in places))
        return found

    def written(
        self, prompts: Sequence[Scored], ids: Sequence[str], max_new_tokens: int, stop_ids: Sequence[int]
    ) -> list[list[int]]:
        """Return the tokens that the model writes after each prompt, greedily; ids: what each is called."""
        from vllm import SamplingParams  # noqa: PLC0415  loaded where an engine is

        params = SamplingParams(
            max_tokens=max_new_tokens,
            temperature=0.0,
            stop_token_ids=list(stop_ids),
            detokenize=False,
            extra_args={STEER_KEY: self._named},
        )
        found: list[list[int]] = []
        for start, end in _portions([len(one.token_ids) + max_new_tokens for one in prompts]):
            outputs = self._run(prompts[start:end], ids[start:end], params)
            found += [list(output.outputs[0].token_ids) for output in outputs]
        return found

    def _run(self, portion: Sequence[Scored], ids: Sequence[str], params: Any) -> list[Any]:
        self._said(ids)
        prompts = [{"prompt_token_ids": one.token_ids} for one in portion]
        outputs: list[Any] = self._llm.generate(prompts, params, use_tqdm=False)
        self._counted(sum(len(one.token_ids) for one in portion))
        return outputs


def _portions(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last place, exclusive, of portions of so many tokens, one sequence at least."""
    start, tokens = 0, 0
    for place, size in enumerate(sizes):
        if place > start and tokens + size > AT_ONCE:
            yield start, place
            start, tokens = place, 0
        tokens += size
    if start < len(sizes):
        yield start, len(sizes)

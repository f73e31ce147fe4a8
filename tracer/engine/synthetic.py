"""An engine without a model: routing of any shape, made up and always the same, at any rate.

What it makes goes the way of a real engine's steps: into shards, through the writers, into the store. So a job can be
sized, and everything behind the model measured and tested, where no model can be run.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.format.weights import round_weights
from moetrace.tracer.engine.probe import probe_shard, probe_texts
from moetrace.tracer.engine.queue import TextQueue, UnderWay
from moetrace.tracer.model.replay import RoutingEvidence, check_routing, gate_weights, router_scores
from moetrace.tracer.plan.token_filter import TokenFilter
from moetrace.tracer.worker import TAG
from moetrace.tracer.worker.assembly import CapturedShard, PlannedShards
from moetrace.tracer.worker.steps import Step, StepRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.engine.queue import Memory
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.model.families import RoutingRule
    from moetrace.tracer.plan.shards import PlannedShard

PATTERNS = 2048  # ways that a token may be routed
TOPICS = 32  # of which each is near one, whose router probabilities it has
SPREAD = 0.35  # of a pattern's logits around its topic's
VOCABULARY = 1024  # of the probe's texts
GRIDS = {"auto": "bf16", "bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True)
class Patterns:
    """Every way that a token may be routed, over L MoE layers of E experts, k of them chosen.

    - experts: [L, k, PATTERNS]; weights: float32 [L, k, PATTERNS], as applied
    - probabilities: [TOPICS, L, E], the full router probabilities of the topic p % TOPICS of pattern p; multiples of
      2^-30, so that their sums are exact in whatever order they are added up
    """

    experts: npt.NDArray[np.signedinteger]
    weights: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float64]

    @classmethod
    def make(cls, facts: ModelFacts, layers: int, grid: str) -> Patterns:
        """Draw router logits, the same ones for a shape each time, and route by the model's rule.

        Weights lie on `grid`. Raises CaptureError where the self-check finds them not to follow from the logits.
        """
        shape = (facts.num_experts, facts.top_k)
        draw = np.random.default_rng([layers, *shape])
        experts = np.empty((layers, facts.top_k, PATTERNS), dtype=np.int16 if shape[0] < 2**15 else np.int32)
        weights = np.empty(experts.shape, dtype=np.float32)
        probabilities = np.empty((TOPICS, layers, shape[0]))
        bias = np.zeros(shape[0], dtype=np.float32) if facts.rule.selection_bias else None
        for layer in range(layers):
            topics = draw.standard_normal((TOPICS, shape[0]))
            noise = SPREAD * draw.standard_normal((PATTERNS, shape[0]))
            logits = (np.tile(topics, (PATTERNS // TOPICS, 1)) + noise).astype(np.float32)
            chosen = choose(facts.rule, logits, facts.top_k)
            evidence = RoutingEvidence(layer, logits, chosen, np.empty(chosen.shape, np.float32), bias)
            applied = gate_weights(facts.rule, evidence)[0].astype(np.float32)
            check_routing(facts.rule, [RoutingEvidence(layer, logits, chosen, applied, bias)])
            experts[layer], weights[layer] = chosen.T, round_weights(applied, grid).T
            scores = router_scores(facts.rule, topics)
            probabilities[:, layer] = np.round(scores / scores.sum(axis=1, keepdims=True) * 2**30) / 2**30
        return cls(experts, weights, probabilities)


def choose(rule: RoutingRule, logits: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.int32]:
    """Return the experts int32 [n, k] that a rule without a selection bias takes by logits [n, E], the best first."""
    eligible = logits.astype(np.float64)
    if rule.groups > 1:
        scores = np.sort(router_scores(rule, eligible).reshape(len(logits), rule.groups, -1), axis=2)
        ranked = scores[:, :, -2:].sum(axis=2) if rule.group_score == "top2" else scores[:, :, -1]
        kept = np.zeros(ranked.shape, dtype=bool)
        best = np.argsort(-ranked, axis=1, kind="stable")[:, : rule.groups_kept]
        np.put_along_axis(kept, best, values=True, axis=1)
        eligible = np.where(np.repeat(kept, logits.shape[1] // rule.groups, axis=1), eligible, -np.inf)
    return np.argsort(-eligible, axis=1, kind="stable")[:, :top_k].astype(np.int32)


@dataclass(eq=False)
class _Request:
    """A text under way: its tokens so far, the pattern of each, and how many of them have been run.

    Of a request of vLLM's it has what `PlannedShards.begin` asks for: `req_id` and `sampling_params.extra_args`.
    """

    req_id: str
    extra_args: dict[str, Any]
    prompt: npt.NDArray[np.int32]
    token_ids: npt.NDArray[np.int32]
    patterns: npt.NDArray[np.int64]
    new_tokens: int
    done: int = 0
    waiting: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(TOPICS, dtype=np.int64))

    def topics(self, patterns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how often each topic is to be added to the sums of probabilities, of so many rows that were run.

        All of a prompt at once, when it ends: sums of float32 would differ with the steps that cut it.
        """
        self.waiting += np.bincount(patterns % TOPICS, minlength=TOPICS)
        if self.done < len(self.prompt):
            return np.zeros_like(self.waiting)
        found, self.waiting = self.waiting, np.zeros_like(self.waiting)
        return found

    @property
    def sampling_params(self) -> _Request:
        return self

    @property
    def is_run(self) -> bool:
        return self.done == len(self.token_ids)

    def write(self, stop: tuple[int, ...]) -> list[int] | None:
        """Sample a token after the last; return all that were sampled where the text ends with it, else None."""
        sampled = int(self.prompt[_mixed(self.token_ids[-1:], len(self.token_ids))[0] % len(self.prompt)])
        written = len(self.token_ids) - len(self.prompt)
        if written < self.new_tokens and sampled not in stop:
            position = len(self.token_ids)
            self.token_ids = np.append(self.token_ids, np.int32(sampled))
            self.patterns = np.append(self.patterns, _patterns(self.token_ids[-1:], position))
            return None
        return [*self.token_ids[len(self.prompt) :].tolist(), sampled]


class _Running:
    """What an engine has under way: requests, and the shards that their steps are put together to."""

    def __init__(
        self, facts: ModelFacts, settings: EngineSettings, patterns: Patterns, token_filter: TokenFilter | None
    ) -> None:
        self._settings, self._patterns, self._layers = settings, patterns, len(facts.moe_layers)
        # A copy through the fields, as the workers of vLLM get it.
        self._filter = TokenFilter(**asdict(token_filter)) if token_filter else None
        self._planned = PlannedShards(facts.moe_layers, facts.num_experts, facts.top_k, profiles=settings.profiles)
        self._requests: deque[_Request] = deque()
        self._names = count(1)
        self._began, self._run = time.monotonic(), 0

    def open(self, shard: PlannedShard, generation: Generation | None) -> None:
        """Announce a shard before its first text."""
        new_tokens = generation.max_new_tokens if generation else 0
        self._planned.open(shard.key, shard.lengths.tolist(), new_tokens, self._filter)

    def add(self, shard: PlannedShard, index: int, generation: Generation | None) -> str:
        """Take a text up; return the name of its request."""
        tokens, new_tokens = shard.token_ids[index], generation.max_new_tokens if generation else 0
        name = f"{TAG}-{next(self._names)}"
        request = _Request(name, {TAG: [shard.key, index]}, tokens, tokens, _patterns(tokens, 0), new_tokens)
        self._planned.begin(request)
        self._requests.append(request)
        return name

    def step(self, stop: tuple[int, ...]) -> Iterator[tuple[str, list[int]]]:
        """Run as many tokens as make a step; yield the requests that ended, with the tokens that they sampled."""
        scheduled, starts, left = [], [], self._settings.max_num_batched_tokens
        for request in self._requests:
            if not left:
                break
            scheduled.append(request)
            starts.append(request.done)
            request.done = min(len(request.token_ids), request.done + left)
            left -= request.done - starts[-1]
        self._add(scheduled, starts)
        self._run += self._settings.max_num_batched_tokens - left
        for request in scheduled:
            sampled = request.write(stop) if request.is_run else None
            if sampled is not None:
                self._requests.remove(request)
                self._planned.end(request.req_id)
                yield request.req_id, sampled
        if self._settings.rate:
            time.sleep(max(0.0, self._began + self._run / self._settings.rate - time.monotonic()))

    def take(self, ends: list[tuple[str, int, int]]) -> list[CapturedShard]:
        """Return the shards that are complete; `ends`: of texts with generated tokens, as in `PlannedShards.finish`."""
        self._planned.finish(ends)
        return self._planned.take()

    def _add(self, scheduled: list[_Request], starts: list[int]) -> None:
        """Route rows from `starts` to where each request is, and put them into their shards."""
        pieces = [slice(start, request.done) for request, start in zip(scheduled, starts, strict=True)]
        chosen = [request.patterns[piece] for request, piece in zip(scheduled, pieces, strict=True)]
        pattern = np.concatenate(chosen)
        token_ids = np.concatenate([request.token_ids[piece] for request, piece in zip(scheduled, pieces, strict=True)])
        counts = np.array([len(each) for each in chosen])
        rows = StepRows([request.req_id for request in scheduled], np.array(starts), counts)
        sums = None
        if self._settings.profiles:
            kept = self._planned.kept(rows)
            if kept is not None:
                counted = kept.at_kept_position & ~np.isin(token_ids, kept.special)
                split = np.split(counted, np.cumsum(counts)[:-1])
                chosen = [each[mine] for each, mine in zip(chosen, split, strict=True)]
            topics = np.stack([request.topics(each) for request, each in zip(scheduled, chosen, strict=True)])
            flat = topics.astype(np.float64) @ self._patterns.probabilities.reshape(TOPICS, -1)
            sums = flat.astype(np.float32).reshape(len(scheduled), self._layers, -1).transpose(1, 0, 2)
        experts = self._patterns.experts.take(pattern, axis=2)
        self._planned.add(Step(experts, self._patterns.weights.take(pattern, axis=2), sums, token_ids), rows)


class SyntheticEngine:
    """Stands in for a `TracedEngine`: the same calls, the same shards, no model."""

    on_cpu = False  # as with a GPU, shards are written while the engine goes on

    def __init__(self, facts: ModelFacts, settings: EngineSettings) -> None:
        """Make up the routing; raise MoetraceError for what only a model can do."""
        if settings.steering:
            raise MoetraceError("--engine synthetic has no router that could be steered; run a model")
        self.facts, self.settings = facts, settings
        self.moe_layers = list(facts.moe_layers)
        self.dtype = "bfloat16" if settings.dtype == "auto" else settings.dtype
        self._patterns = Patterns.make(facts, len(self.moe_layers), GRIDS[settings.dtype])
        (self.probe,) = self.trace([probe_shard(probe_texts(VOCABULARY, facts.window - 1))])

    @property
    def llm(self) -> Any:
        """Raise MoetraceError: there is no vLLM here."""
        raise MoetraceError("--engine synthetic runs no model, so there is no vLLM to ask; leave it out")

    def trace(
        self,
        shards: Iterable[PlannedShard],
        on_tokens: Callable[[int], None] | None = None,
        generation: Generation | None = None,
        memory: Memory | None = None,
        token_filter: TokenFilter | None = None,
        steered_by: Callable[[str], str | None] | None = None,  # noqa: ARG002  as a TracedEngine is called
    ) -> Iterator[Shard]:
        """Route the texts of `shards` in order and yield each shard, as `TracedEngine.trace` does."""
        under_way = UnderWay(self.facts, len(self.moe_layers), generation, memory)
        queue = TextQueue(iter(shards), under_way, limit=4 * self.settings.max_num_batched_tokens)
        running = _Running(self.facts, self.settings, self._patterns, token_filter)
        try:
            while queue.fill(running.open, running.add):
                ends = [queue.finish(*ended) for ended in running.step(generation.stop if generation else ())]
                if on_tokens:
                    for _, _, positions in ends:
                        on_tokens(positions)
                for part in running.take(ends if generation else []):
                    under_way.parts[part.key] = [part]
                for key in under_way.completed(1):
                    yield under_way.finish(key)
        except (MoetraceError, GeneratorExit):
            under_way.give_back_all()
            raise
        if under_way.shards:
            raise CaptureError(f"{', '.join(under_way.shards)}: the engine finished without computing every position")

    def close(self) -> None:
        """Do nothing: there is nothing to shut down."""


def _mixed(token_ids: npt.NDArray[np.int32], first: int | None) -> npt.NDArray[np.uint64]:
    """Return a number for each token that depends on its id and, where `first` is the first one's, on its position."""
    mixed = token_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    if first is not None:
        mixed += np.arange(first + 1, first + 1 + len(token_ids), dtype=np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    return (mixed * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(33)


def _patterns(token_ids: npt.NDArray[np.int32], first: int) -> npt.NDArray[np.int64]:
    """Return the pattern of each token: of three in four by its id and position, of the others by their id alone."""
    by_position = _mixed(token_ids, first)
    return np.where(by_position % 4 != 0, by_position, _mixed(token_ids, None)).astype(np.int64) % PATTERNS

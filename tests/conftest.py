"""What tests share: where the real data are, the bundled model, and one traced engine for the whole session."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from moetrace.tracer.bundled import CORPUS, MODEL
from tests.support.examples import register_profiles
from tests.support.paths import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm import LLM

    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.plan.plan import Plan
    from tests.support.warm import WarmProcess

STARTS_AN_ENGINE = {"engine", "stressed", "someones_llm", "warm"}

os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # else `datasets` sends the hub a request for each file that is opened
if "PYTEST_XDIST_WORKER" in os.environ:
    # One worker a core: threads of their own would only take each other's. Read where torch and polars are imported.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}

register_profiles()
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that starts an engine and is not marked so: it would run where no engine should."""
    for item in items:
        if STARTS_AN_ENGINE & set(getattr(item, "fixturenames", ())) and not item.get_closest_marker("engine"):
            raise pytest.UsageError(f"{item.nodeid} starts an engine; mark it with pytest.mark.engine")


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is not installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process have all tests that share the engine of the session, where they are shared out by groups.

    What runs in processes of its own, in tests/end_to_end, is shared out by the file. Groups by mark, which
    pytest-xdist 3.8 has for that, do nothing under pytest 9.2.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByEngine(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0] if nodeid.startswith("tests/end_to_end/") else "the engine of the session"

    return ByEngine(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora and traces, which is not part of the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set MOETRACE_SHARED to the folder above data/)")
    return folder


@pytest.fixture(scope="session")
def engine() -> Iterator[TracedEngine]:
    """The bundled model in float32, traced: the one engine of the session."""
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.engine.settings import EngineSettings
    from moetrace.tracer.model.facts import read_facts

    started = TracedEngine(read_facts(str(MODEL)), EngineSettings(dtype="float32", max_model_len=1024))
    yield started
    started.close()


@pytest.fixture(scope="session")
def stressed(engine: TracedEngine) -> TracedEngine:  # noqa: ARG001  the first engine must outlive it
    """A second engine that chunks every text, caches prefixes and has room for four blocks: it must preempt.

    It starts in a second, but engines of a process share vLLM's process groups: when one goes, they go.
    """
    from moetrace.tracer.engine.engine import TracedEngine
    from moetrace.tracer.model.facts import read_facts
    from tests.support.stress import STRESSED

    return TracedEngine(read_facts(str(MODEL)), STRESSED)


@pytest.fixture(scope="session")
def someones_llm(engine: TracedEngine) -> LLM:  # noqa: ARG001  the first engine must outlive it
    """An engine as anybody makes one, prefix cache and all; it lives as long as the others, see `stressed`."""
    from vllm import LLM

    return LLM(
        model=str(MODEL),
        dtype="float32",
        max_model_len=256,
        enforce_eager=True,
        kv_cache_memory_bytes=2**28,
        disable_log_stats=True,
    )


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    """A process that has imported vLLM and runs what needs it in forks of itself."""
    from tests.support.warm import WarmProcess

    started = WarmProcess(tmp_path_factory.mktemp("warm"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def mode_result() -> Callable[..., None]:
    """A function that says how a mode of the engine did: the table of modes in docs/families.md is made of it.

    MOETRACE_WRITE_RESULTS=1 writes it to tests/results/modes.json; else the mode must have done as stands there.
    """
    file = Path(__file__).parent / "results" / "modes.json"

    def result(mode: str, status: str, sets_equal: float | None = None, weight_error: float | None = None) -> None:
        rows = json.loads(file.read_text())
        if os.environ.get("MOETRACE_WRITE_RESULTS"):
            rows[mode] |= {"status": status, "sets_equal": sets_equal, "weight_error": weight_error}
            lines = (f" {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
            file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        assert (rows[mode]["status"], rows[mode]["sets_equal"]) == (status, sets_equal)

    return result


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., Plan]:
    """A function that plans a corpus for the bundled model."""
    from transformers import AutoTokenizer

    from moetrace.tracer.corpus.corpus import open_corpus
    from moetrace.tracer.plan.plan import make_plan

    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def plan(
        folder: Path = CORPUS, languages: tuple[str, ...] = (), shard_tokens: int = 4096, window: int = 1023
    ) -> Plan:
        corpus = open_corpus(str(folder)).only(languages)
        return make_plan(corpus, lambda texts: tokenizer(texts)["input_ids"], shard_tokens=shard_tokens, window=window)

    return plan

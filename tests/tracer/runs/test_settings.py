"""What a trace is asked to do is checked against the model before anything is tokenised."""

from __future__ import annotations

import pytest

from moetrace.store.errors import MoetraceError
from moetrace.store.format.schema import TABLE_NAMES
from moetrace.tracer.bundled import MODEL
from moetrace.tracer.engine.settings import EngineSettings
from moetrace.tracer.model.facts import ModelFacts, read_facts
from moetrace.tracer.plan.token_filter import TokenFilter
from moetrace.tracer.runs.settings import TraceSettings


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return read_facts(str(MODEL))


def test_the_window_is_the_models_unless_a_shorter_one_is_asked_for(facts: ModelFacts) -> None:
    assert TraceSettings().for_model(facts).engine.max_model_len == facts.window == 1024
    shorter = TraceSettings(engine=EngineSettings(max_model_len=100)).for_model(facts)
    assert shorter.engine.max_model_len == 100


@pytest.mark.parametrize("length", [1, 1025])
def test_a_window_that_the_model_does_not_have_is_refused(facts: ModelFacts, length: int) -> None:
    with pytest.raises(MoetraceError, match=f"--max-model-len {length}: .* takes 2 to 1024 tokens"):
        TraceSettings(engine=EngineSettings(max_model_len=length)).for_model(facts)


def test_a_text_leaves_room_for_what_is_generated_and_the_token_that_is_sampled_last(facts: ModelFacts) -> None:
    assert TraceSettings().for_model(facts).text_window == 1023
    assert TraceSettings(max_new_tokens=23).for_model(facts).text_window == 1000
    with pytest.raises(MoetraceError, match="--max-new-tokens 1023 leaves no room for a text in 1024 tokens"):
        assert TraceSettings(max_new_tokens=1023).for_model(facts).text_window


def test_as_many_positions_as_a_text_may_have_cannot_be_skipped(facts: ModelFacts) -> None:
    TraceSettings(skip_positions=1022).for_model(facts)
    with pytest.raises(MoetraceError, match="--skip-positions 1023: a text has at most 1023 tokens here; lower it"):
        TraceSettings(skip_positions=1023).for_model(facts)


def test_there_is_a_filter_where_tokens_are_left_out() -> None:
    assert TraceSettings().token_filter([3]) is None
    assert TraceSettings(skip_special=True).token_filter([]) is None
    every = TraceSettings(prompt_only=True, skip_positions=2, skip_special=True)
    assert every.token_filter([3, 4]) == TokenFilter(prompt_only=True, skip_positions=2, special=(3, 4))
    assert TraceSettings(skip_positions=2).token_filter([3]) == TokenFilter(skip_positions=2)


def test_an_unknown_weight_precision_is_refused() -> None:
    TraceSettings().check()
    with pytest.raises(MoetraceError, match="--weight-precision f8: choose auto, "):
        TraceSettings(weight_precision="f8").check()


def test_tables_and_generation_stand_in_the_record_as_they_were_asked_for() -> None:
    assert TraceSettings().tables() == list(TABLE_NAMES)
    fewer = TraceSettings(routes=False, engine=EngineSettings(profiles=False)).tables()
    assert fewer == [name for name in TABLE_NAMES if name not in {"routes", "profiles"}]
    assert len(fewer) == 3
    assert TraceSettings(temperature=0.7).generation_record() is None
    generating = TraceSettings(max_new_tokens=8, temperature=0.7, seed=3)
    assert generating.generation_record() == {"max_new_tokens": 8, "temperature": 0.7, "top_p": 1.0, "seed": 3}

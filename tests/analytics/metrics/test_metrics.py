"""Every metric's SQL against the NumPy reference, on every store that is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.analytics import metrics
from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import view
from moetrace.store.errors import UnknownNameError
from moetrace.store.write.writer import StoreWriter
from tests.reference import metrics as reference
from tests.reference.agreement import agrees_with_reference, close, keyed
from tests.support.examples import examples
from tests.support.stores import World, make_record, make_shard, make_world
from tests.support.worlds import open_worlds

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

WORLDS = {
    "unequal corpora with missing ids and an unused expert": [make_world(1)],
    "one MoE layer": [make_world(2, make_record(moe_layers=[4]), texts=3)],
    "two runs of different models in one store": [
        make_world(3, make_record("b", languages=["x", "y"], moe_layers=[0, 3], num_experts=260, top_k=3)),
        make_world(4, make_record("a", languages=["x", "y", "z"], moe_layers=[0, 3, 9, 10], num_experts=5, top_k=1)),
    ],
    "many languages, every expert used": [
        make_world(5, make_record(languages=[f"l{number}" for number in range(9)]), texts=12, unused_experts=0)
    ],
    "texts for several blocks": [make_world(7, make_record(languages=["a", "b"], moe_layers=[1]), texts=40)],
    "a text a language": [make_world(8, make_record(languages=["a", "b"]), texts=1)],
    "one language": [make_world(6, make_record(languages=["eng_Latn"]))],
}


SIZED = ("jaccard", "jaccard_by_layer", "jaccard_by_pair", "jaccard_by_language")
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    **{name: [{}, {"n": 1}, {"n": 3}, {"n": 999}] for name in reference.METRICS if name in SIZED},
    "expert_sets": [{}, {"n": 1}, {"n": 999}],
    "pivot_similarity": [
        *({}, {"derangements": 0}, {"derangements": 1}, {"derangements": 12}),
        *({"pivot_lang": "y"}, {"pivot_lang": "nobody"}),
    ],
    "divergence_vs_vocabulary": [{}, {"permutations": 0}, {"permutations": 50, "seed": 3}],
    "specificity": [{}, {"alpha": 0.5}, {"shrinkage": 2.5}],
    "overlap": [{}, {"alpha": 0}],
    "exclusive_experts": [{}, {"threshold": 0.2}, {"threshold": 1}],
}


SUBSETS = [
    *({"layers": [2, 5]}, {"layers": []}, {"languages": ["deu_Latn", "swh_Latn"]}, {"languages": ["swh_Latn"]}),
    {"languages": ["deu_Latn", "eng_Latn"], "layers": [5, 77]},
]


CASES = [(name, arguments) for name in reference.METRICS for arguments in ARGUMENTS.get(name, [{}])]


@pytest.fixture(scope="module", params=list(WORLDS))
def worlds(request: pytest.FixtureRequest) -> list[World]:
    return WORLDS[request.param]


@pytest.fixture(scope="module")
def opened(worlds: list[World], tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    return open_worlds(tmp_path_factory.mktemp("store"), worlds)


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=str)
def test_sql_agrees_with_the_reference(
    name: str, arguments: dict[str, Any], worlds: list[World], opened: duckdb.DuckDBPyConnection
) -> None:
    agrees_with_reference(opened, worlds, name, arguments)


@pytest.mark.parametrize("subset", SUBSETS, ids=str)
@pytest.mark.parametrize("name", [name for name in reference.METRICS if "languages" in view(name).defaults])
def test_languages_and_layers_restrict_what_is_compared(
    name: str, subset: dict[str, list[Any]], three_languages: duckdb.DuckDBPyConnection
) -> None:
    arguments = {key: value for key, value in subset.items() if key in view(name).defaults}
    agrees_with_reference(three_languages, [make_world(1)], name, arguments)


def test_every_metric_that_compares_languages_can_be_restricted() -> None:
    per_run = {"zones"}
    assert {name for name in reference.METRICS if "languages" not in view(name).defaults} == per_run
    of_whole_model = {"zones_auto", "vocabulary_overlap"}
    assert {name for name in reference.METRICS if "layers" not in view(name).defaults} == per_run | of_whole_model


@examples(12)
@given(
    seed=st.integers(0, 10**6),
    layers=st.sets(st.integers(0, 60), min_size=1, max_size=6),
    num_experts=st.integers(2, 40),
    languages=st.integers(1, 5),
    texts_in_shard=st.integers(1, 7),
    data=st.data(),
)
def test_sql_agrees_with_the_reference_on_any_store(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    layers: set[int],
    num_experts: int,
    languages: int,
    texts_in_shard: int,
    data: st.DataObject,
) -> None:
    top_k = data.draw(st.integers(1, num_experts))
    unused = data.draw(st.integers(0, num_experts - top_k))
    names = [f"l{number}" for number in range(languages)]
    record = make_record("run", names, moe_layers=sorted(layers), num_experts=num_experts, top_k=top_k)
    worlds = [make_world(seed, record, unused_experts=unused)]
    opened = open_worlds(tmp_path_factory.mktemp("store"), worlds, texts_in_shard)
    for name in reference.METRICS:
        agrees_with_reference(opened, worlds, name, {})


def test_metrics_do_not_depend_on_how_texts_are_cut_into_shards(tmp_path: Path) -> None:
    world = make_world(7)
    cuts = [open_worlds(tmp_path / str(size), [world], size) for size in (1, 2, 100)]
    for name in reference.METRICS:
        first, *others = (keyed(getattr(metrics, name)(cut).to_dicts()) for cut in cuts)
        for other in others:
            assert close(first, other, 1e-12), name


def test_metrics_do_not_depend_on_the_order_of_shards_or_on_who_wrote_them(tmp_path: Path) -> None:
    world = make_world(7)
    one = open_worlds(tmp_path / "one", [world])
    shards = [
        make_shard(world.record, lang, number, start, texts[start : start + 3])
        for lang, texts in world.texts.items()
        for number, start in enumerate(range(0, len(texts), 3))
    ]
    writers = [StoreWriter(tmp_path / "many", world.record) for _ in range(3)]
    for index, shard in enumerate(reversed(shards)):
        writers[index % 3].write(shard)
    many = connect(tmp_path / "many")
    for name in reference.METRICS:
        first, other = (keyed(getattr(metrics, name)(opened).to_dicts()) for opened in (one, many))
        assert close(first, other, 1e-12), name


def test_a_language_that_no_run_has_is_refused(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(7)])
    for name in ("jaccard", "divergence", "specificity", "routing_entropy", "activation_gap"):
        with pytest.raises(UnknownNameError, match="has no language 'swh'; did you mean swh_Latn"):
            getattr(metrics, name)(opened, languages=["eng_Latn", "swh"])

"""Each metric's SQL against the NumPy reference, and the properties that its definition promises."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moetrace.analytics.database.connection import connect
from moetrace.analytics.database.documentation import view
from moetrace.analytics.database.query import missing_inputs
from moetrace.analytics.metrics import frames as metrics
from moetrace.store.errors import MoetraceError, UnknownNameError
from moetrace.store.write.writer import StoreWriter
from tests.reference import metrics as reference
from tests.support.examples import examples
from tests.support.stores import World, make_record, make_shard, make_world, write_counts, write_world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FLOAT32_PROFILES = ("pivot_similarity",)
VALUES = {
    *("frequency", "share", "weight_mean", "weight_share", "probability", "jaccard", "isolation"),
    *("entropy", "entropy_normalized", "probability_entropy", "probability_entropy_normalized"),
    *("jsd", "jsd_normalized", "probability_jsd", "probability_jsd_normalized"),
    *("divergence", "similarity", "specificity", "score", "cv", "overlap"),
    *("gap", "specialization", "language_share", "type_jaccard", "token_overlap", "r_type", "r_token", "consistency"),
    *("pearson", "pearson_p", "spearman", "spearman_p"),
}

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
    "one language": [make_world(6, make_record(languages=["eng_Latn"]))],
}
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    **{name: [{}, {"n": 1}, {"n": 3}, {"n": 999}] for name in reference.METRICS if name.startswith("jaccard")},
    "expert_sets": [{}, {"n": 1}, {"n": 999}],
    "pivot_similarity": [{}, {"pivot_lang": "y"}, {"pivot_lang": "nobody"}],
    "specificity": [{}, {"alpha": 0.5}],
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


@pytest.fixture(scope="module")
def three_languages(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    return open_worlds(tmp_path_factory.mktemp("store"), [make_world(1)])


@pytest.mark.parametrize("subset", SUBSETS, ids=str)
@pytest.mark.parametrize("name", [name for name in reference.METRICS if "languages" in view(name).defaults])
def test_languages_and_layers_restrict_what_is_compared(
    name: str, subset: dict[str, list[Any]], three_languages: duckdb.DuckDBPyConnection
) -> None:
    arguments = {key: value for key, value in subset.items() if key in view(name).defaults}
    agrees_with_reference(three_languages, [make_world(1)], name, arguments)


def test_every_metric_that_compares_languages_can_be_restricted() -> None:
    per_run = {"activation", "zones"}
    assert {name for name in reference.METRICS if "languages" not in view(name).defaults} == per_run
    of_whole_model = {"zones_auto", "vocabulary_overlap"}
    assert {name for name in reference.METRICS if "layers" not in view(name).defaults} == per_run | of_whole_model


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"run_a": "task"},
        {"run_a": "task", "run_b": "general", "tau": 0.1},
        {"lang": "deu_Latn"},
        {"layers": [2]},
        {"run_b": "other", "layers": [4, 5]},
    ],
    ids=str,
)
def test_task_experts_agree_with_the_reference(arguments: dict[str, Any], tmp_path: Path) -> None:
    worlds = [
        make_world(21, make_record("task")),
        make_world(22, make_record("general"), texts=9),
        make_world(23, make_record("other", moe_layers=[2, 4, 5])),
        make_world(24, make_record("another-model", num_experts=9)),
    ]
    opened = open_worlds(tmp_path, worlds)
    runs = [reference.routing(world) for world in worlds]
    sides = {side: arguments[side] for side in ("run_a", "run_b") if side in arguments}
    expected = reference.task_experts(runs, **{key: arguments[key] for key in arguments if key not in sides})
    expected = [row for row in expected if all(row[side] == run for side, run in sides.items())]
    assert close(keyed(expected), keyed(metrics.task_experts(opened, **arguments).to_dicts()), 1e-12)


def test_task_experts_of_two_runs_the_other_way_round_are_the_opposite(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(25, make_record(run)) for run in ("a", "b")])
    there, back = metrics.task_experts(opened, "a", "b"), metrics.task_experts(opened, "b", "a")
    assert there["score"].to_list() == pytest.approx((-back["score"]).to_list())
    assert there["score"].sum() == pytest.approx(0)


def test_task_experts_of_an_unknown_run_are_an_error_that_suggests(three_languages: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(UnknownNameError, match="the store has no run 'rum'; did you mean run"):
        metrics.task_experts(three_languages, "rum")


def test_task_experts_of_runs_without_texts_are_null(tmp_path: Path) -> None:
    for run in ("a", "b"):
        record = make_record(run, ["x"], moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
        store = write_counts(tmp_path, record, {"x": np.array([[4, 6]])}, {"x": 10})
    found = metrics.task_experts(connect(store), "a", "b")
    assert found.select("score", "selected").rows() == [(None, None)] * 2


@pytest.mark.parametrize("arguments", [{}, {"pivot_lang": "l5"}, {"layers": [2, 5]}], ids=str)
@pytest.mark.parametrize("noise", [0, 1e-3, 0.03, 10])
def test_score_correlation_agrees_with_scipy(noise: float, arguments: dict[str, Any], tmp_path: Path) -> None:
    world = make_world(31, make_record(languages=[f"l{number}" for number in range(9)]), texts=4)
    opened = open_worlds(tmp_path, [world])
    rng = np.random.default_rng(0)
    similar = metrics.pivot_similarity(opened).filter(layer=2)
    scores = {"l0": 1.0} | {
        lang: float(similarity + noise * rng.normal())
        for lang, similarity in similar.select("lang", "similarity").rows()
    }
    scores["l3"] = scores["l4"]
    found = metrics.score_correlation(opened, table_of(scores), **arguments)
    expected = reference.score_correlation(reference.routing(world), scores, **arguments)
    assert close(keyed([{"run": "run", **row} for row in expected]), keyed(found.to_dicts()), 1e-5)


@pytest.mark.parametrize("languages", [4, 5, 6, 31, 200])
@pytest.mark.parametrize("noise", [0, 0.05, 1, 30])
def test_p_values_are_those_of_scipy(languages: int, noise: float) -> None:
    rng = np.random.default_rng(languages)
    similarity = rng.random(languages).round(6 if languages < 100 else 2)
    score = -similarity + noise * rng.normal(size=languages).round(1)
    row = correlation_of(similarity, score)
    assert row["n"] == languages
    for name, (r, p) in {
        "pearson": stats.pearsonr(similarity, score),
        "spearman": stats.spearmanr(similarity, score),
    }.items():
        assert row[name] == pytest.approx(r, abs=1e-12)
        # Near |r| = 1 the last digit of r decides p.
        assert row[f"{name}_p"] == pytest.approx(p, rel=1e-9, abs=1e-30 if abs(r) < 1 - 1e-6 else 1e-13)


def test_scores_that_do_not_vary_have_no_correlation() -> None:
    row = correlation_of(np.array([0.1, 0.2, 0.3]), np.ones(3))
    assert row == {"run": "run", "layer": 1, "n": 3} | dict.fromkeys(["pearson", "pearson_p", "spearman", "spearman_p"])


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({"lang": ["deu_Latn", "swa_Latn"], "score": [1, 2]}, UnknownNameError, "no language 'swa_Latn'; did you mean"),
        (
            {"lang": ["deu_Latn", "swh_Latn"], "score": [1, 2]},
            metrics.MoetraceError,
            "needs 3 languages .* there are 2",
        ),
        ({"lang": ["eng_Latn", "deu_Latn", "swh_Latn"], "score": [1, 2, None]}, metrics.MoetraceError, "there are 1;"),
        ({"lang": ["deu_Latn"] * 2, "score": [1, 2]}, metrics.MoetraceError, "language 'deu_Latn' more than once"),
        ({"lang": ["deu_Latn"], "score": [math.nan]}, metrics.MoetraceError, "no finite number"),
        ({"lang": ["deu_Latn"], "score": ["high"]}, metrics.MoetraceError, "no finite number"),
        ({"lang": ["deu_Latn"], "value": [1]}, metrics.MoetraceError, "scores have no column 'score'"),
    ],
)
def test_scores_that_cannot_be_correlated_are_an_error(
    scores: dict[str, list[Any]], error: type[Exception], message: str, three_languages: duckdb.DuckDBPyConnection
) -> None:
    with pytest.raises(error, match=message):
        metrics.score_correlation(three_languages, pl.DataFrame(scores))


def test_a_table_of_ones_own_can_be_correlated_in_sql(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(32, make_record(languages=["a", "b", "c", "d"]))])
    assert opened.sql("from score_correlation").fetchall() == []
    opened.execute("insert into scores values ('b', 3), ('c', 1), ('d', 2)")
    opened.execute("create table mine as from scores")
    plain = opened.sql("from score_correlation order by all").fetchall()
    named = opened.sql("from score_correlation(scores := 'mine') order by all").fetchall()
    assert [row[2] for row in plain] == [3, 3, 3]
    for row, other in zip(plain, named, strict=True):
        assert row == pytest.approx(other)


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


def test_activation_sums_to_top_k_and_shares_sum_to_one(tmp_path: Path) -> None:
    world = make_world(8)
    summed = metrics.activation(open_worlds(tmp_path, [world])).drop("run", "expert").group_by("lang", "layer").sum()
    assert summed["frequency"].to_list() == pytest.approx([world.record.top_k] * len(summed))
    for column in ("share", "weight_share", "probability"):
        assert summed[column].to_list() == pytest.approx([1.0] * len(summed), abs=1e-6)


def test_every_value_lies_in_its_range(tmp_path: Path) -> None:
    world = make_world(9, make_record(num_experts=6, top_k=1), texts=2, unused_experts=3)
    opened = open_worlds(tmp_path, [world])
    ranges = {
        "jaccard": {"jaccard": 1, "isolation": 1},
        "routing_entropy": {"entropy": math.log(6), "entropy_normalized": 1, "probability_entropy_normalized": 1},
        "divergence": {"jsd": math.log(2), "jsd_normalized": 1, "probability_jsd_normalized": 1},
        "pivot_similarity": {"divergence": 1, "similarity": 1},
        "specificity": {"specificity": len(world.texts)},
        "overlap": {"overlap": 1},
        "activation_gap": {"gap": 1},
        "language_specialization": {"specialization": 1},
        "exclusive_experts": {"share": 1, "language_share": 1},
        "vocabulary_overlap": {"type_jaccard": 1, "token_overlap": 1},
        "routing_consistency": {"consistency": 1},
    }
    for name, columns in ranges.items():
        frame = getattr(metrics, name)(opened)
        for column, highest in columns.items():
            assert frame[column].min() >= 0, (name, column)
            assert frame[column].max() <= highest + 1e-12, (name, column)


def test_languages_with_the_same_texts_do_not_diverge(tmp_path: Path) -> None:
    world = make_world(10, alike=[("eng_Latn", "deu_Latn")])
    opened = open_worlds(tmp_path, [world])
    same = (frame_of(opened, name, lang_a="deu_Latn", lang_b="eng_Latn") for name in ("jaccard", "divergence"))
    overlaps, divergences = same
    assert set(overlaps["jaccard"]) == {1.0}
    assert divergences["jsd"].to_list() == pytest.approx([0.0] * len(divergences), abs=1e-15)
    assert divergences["probability_jsd_normalized"].to_list() == pytest.approx([0.0] * len(divergences), abs=1e-14)
    assert set(frame_of(opened, "pivot_similarity", lang="deu_Latn")["similarity"]) == {1.0}
    vocabulary = frame_of(opened, "vocabulary_overlap", lang_a="deu_Latn", lang_b="eng_Latn")
    assert vocabulary.row(0)[-2:] == pytest.approx((1, 1))
    same = ["deu_Latn", "eng_Latn"]
    specialization = metrics.language_specialization(opened, languages=same)["specialization"]
    assert specialization.to_list() == pytest.approx([0.0] * len(specialization), abs=1e-14)
    gaps = metrics.activation_gap(opened, languages=same)
    assert set(gaps.select("lang", "gap").rows()) == {(None, 0.0)}
    assert set(metrics.zones_auto(opened, languages=same)["zone"]) == {"shallow", "middle", "deep"}


def test_languages_that_share_no_expert_are_told_by_every_expert(tmp_path: Path) -> None:
    counts = {"a": np.array([[10, 0, 0]]), "b": np.array([[0, 15, 15]]), "c": np.array([[0, 0, 10]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=3, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, {"a": 10, "b": 30, "c": 10}))
    assert metrics.language_specialization(opened, languages=["a", "b"])["specialization"].item() == pytest.approx(1)
    gaps = metrics.activation_gap(opened).select("expert", "lang", "gap").rows()
    assert gaps == [(0, "a", 1.0), (1, "b", 0.5), (2, "c", 0.5)]
    exclusive = metrics.exclusive_experts(opened).select("lang", "expert", "share", "language_share").rows()
    assert exclusive == [("a", 0, 1.0, 1.0), ("b", 1, 0.5, 1.0), ("c", 2, 1.0, pytest.approx(2 / 3))]


def test_one_language_alone_has_nothing_to_be_told_from(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(14, make_record(languages=["a"]))])
    assert set(metrics.language_specialization(opened)["specialization"]) == {None}
    assert set(metrics.activation_gap(opened).select("lang", "gap").rows()) == {(None, None)}
    for name in ("zones_auto", "vocabulary_overlap", "divergence_vs_vocabulary"):
        assert frame_of(opened, name).is_empty()


def test_zones_are_cut_where_the_divergence_changes(tmp_path: Path) -> None:
    apart, half, alike = ([12, 0], [0, 12]), ([9, 3], [3, 9]), ([6, 6], [6, 6])
    curve = [apart, apart, alike, alike, alike, half]
    counts = {lang: np.array([layer[number] for layer in curve]) for number, lang in enumerate("ab")}
    for run, layers in (("all", 6), ("two", 2), ("one", 1), ("alike", 0)):
        record = make_record(
            run, "ab", moe_layers=range(3, 3 + (layers or 4)), num_experts=2, top_k=1, tables=["usage"]
        )
        shown = {lang: count[:layers] if layers else np.array([[6, 6]] * 4) for lang, count in counts.items()}
        store = write_counts(tmp_path, record, shown, {"a": 12, "b": 12})
    found = metrics.zones_auto(connect(store)).group_by("run").agg("zone")
    assert dict(found.rows()) == {
        "all": ["shallow"] * 2 + ["middle"] * 3 + ["deep"],
        "two": ["shallow", "middle"],
        "one": ["shallow"],
        "alike": ["shallow", "middle", "deep", "deep"],
    }


def test_a_language_of_unknown_token_ids_has_no_vocabulary(tmp_path: Path) -> None:
    opened = open_worlds(tmp_path, [make_world(15)])
    whole = metrics.vocabulary_overlap(opened)
    opened.execute(
        "create or replace view tokens as select * replace (if(lang = 'deu_Latn', null, token_id) as token_id) "
        "from files.tokens"
    )
    known = whole.filter((pl.col("lang_a") != "deu_Latn") & (pl.col("lang_b") != "deu_Latn"))
    assert metrics.vocabulary_overlap(opened).rows() == known.rows()
    assert len(known) == 1


def test_texts_whose_tokens_all_go_the_same_way_are_consistent(tmp_path: Path) -> None:
    world = make_world(16)
    same = {
        lang: [replace(text, experts=np.repeat(text.experts[:1], len(text.experts), axis=0)) for text in texts]
        for lang, texts in world.texts.items()
    }
    found = metrics.routing_consistency(open_worlds(tmp_path, [World(world.record, same)]))
    assert set(found["consistency"]) == {1.0}


def test_routing_consistency_is_the_same_however_little_fits_in_memory(
    three_languages: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = keyed(three_languages.sql("from routing_consistency").pl().to_dicts())
    for memory in (metrics.TOKEN_LAYERS, 1):
        monkeypatch.setattr(metrics, "TOKEN_LAYERS", memory)
        assert close(at_once, keyed(metrics.routing_consistency(three_languages).to_dicts()), 1e-12)


def test_perfectly_even_routing_neither_diverges_nor_divides_by_zero(tmp_path: Path) -> None:
    even = np.full((1, 8), 5)
    record = make_record(languages=["a", "b"], moe_layers=[0], num_experts=8, top_k=2, tables=["usage"])
    row = metrics.divergence(connect(write_counts(tmp_path, record, {"a": even, "b": even}, {"a": 20, "b": 20})))
    assert row["jsd"].item() == pytest.approx(0, abs=1e-15)
    assert row["jsd_normalized"].item() == 0


def test_specificity_to_languages_that_never_use_the_expert_is_finite(tmp_path: Path) -> None:
    counts = {"a": np.array([[10, 0]]), "b": np.array([[0, 10]]), "c": np.array([[0, 10]])}
    record = make_record(languages=list(counts), moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    opened = connect(write_counts(tmp_path, record, counts, dict.fromkeys(counts, 10)))
    found = metrics.specificity(opened, languages=["b", "c"]).filter(lang="a")
    assert found["specificity"].to_list() == [1 / 1e-8, 0]


def test_renaming_languages_changes_nothing_but_names(tmp_path: Path) -> None:
    world = make_world(11, make_record(languages=["a", "b", "c"]))
    names = {"a": "z", "b": "y", "c": "x"}
    renamed = World(make_record(languages=["z", "y", "x"]), {names[lang]: texts for lang, texts in world.texts.items()})
    for name, column in (
        ("jaccard", "jaccard"),
        ("divergence", "jsd"),
        ("divergence", "probability_jsd_normalized"),
        ("vocabulary_overlap", "type_jaccard"),
        ("vocabulary_overlap", "token_overlap"),
    ):
        by_pair = []
        for folder, shown in (("before", world), ("after", renamed)):
            back = (
                {new: old for old, new in names.items()} if shown is renamed else dict(zip("abc", "abc", strict=True))
            )
            frame = getattr(metrics, name)(open_worlds(tmp_path / name / column / folder, [shown]))
            by_pair.append(
                {
                    (row.get("layer"), *sorted((back[row["lang_a"]], back[row["lang_b"]]))): row[column]
                    for row in frame.to_dicts()
                }
            )
        assert by_pair[0].keys() == by_pair[1].keys()
        assert by_pair[0] == pytest.approx(by_pair[1], abs=1e-14)


def test_a_run_without_profiles_has_null_probabilities_and_no_similarity(tmp_path: Path) -> None:
    record = make_record(tables=["sequences", "tokens", "routes", "usage"])
    opened = open_worlds(tmp_path, [make_world(12, record)])
    for name, columns in {
        "activation": ["probability"],
        "routing_entropy": ["probability_entropy", "probability_entropy_normalized"],
        "divergence": ["probability_jsd", "probability_jsd_normalized"],
        "divergence_by_layer": ["probability_jsd", "probability_jsd_normalized"],
    }.items():
        frame = getattr(metrics, name)(opened)
        assert len(frame) > 0
        for column in columns:
            assert frame[column].null_count() == len(frame), (name, column)
        assert frame.drop(columns).null_count().sum_horizontal().item() == frame_nulls_expected(name, frame)
    with pytest.raises(MoetraceError, match=r"pivot_similarity has nothing of run 'run', .* without profiles$"):
        metrics.pivot_similarity(opened)
    assert missing_inputs(opened, "select * from activation") == []


def test_a_run_of_which_only_counts_are_known_has_no_rows_where_more_is_needed(tmp_path: Path) -> None:
    record = make_record(languages=["a", "b"], moe_layers=[0], num_experts=2, top_k=1, tables=["usage"])
    counts = {"a": np.array([[4, 6]]), "b": np.array([[5, 5]])}
    opened = connect(write_counts(tmp_path, record, counts, {"a": 10, "b": 10}))
    for name in ("vocabulary_overlap", "divergence_vs_vocabulary", "routing_consistency"):
        with pytest.raises(MoetraceError, match=f"{name} has nothing of run 'run', which was traced without"):
            getattr(metrics, name)(opened)
    with pytest.raises(metrics.MoetraceError, match="was traced without sequences and profiles"):
        metrics.score_correlation(opened, table_of({"a": 1, "b": 2}))


def test_a_set_of_no_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(metrics.MoetraceError, match="n = 0: a set of experts has at least 1 member"):
        metrics.jaccard(open_worlds(tmp_path, [make_world(13)]), n=0)


def open_worlds(path: Path, worlds: Sequence[World], texts_in_shard: int = 3) -> duckdb.DuckDBPyConnection:
    for world in worlds:
        store = write_world(path, world, texts_in_shard)
    return connect(store)


def frame_of(opened: duckdb.DuckDBPyConnection, name: str, **equal: str) -> pl.DataFrame:
    return getattr(metrics, name)(opened).filter(**equal)


def table_of(scores: dict[str, float]) -> pl.DataFrame:
    return pl.DataFrame({"lang": list(scores), "score": list(scores.values())})


def correlation_of(similarity: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Return score_correlation's row for similarities that are given, in place of those of a store."""
    opened = duckdb.connect()
    names = [f"l{number}" for number in range(len(score))]
    opened.execute(
        "create table given as select unnest($1) as lang, unnest($2) as similarity, unnest($3) as score",
        [names, similarity.tolist(), score.tolist()],
    )
    opened.execute(
        "create macro pivot_similarity(pivot_lang := null, layers := null) as table "
        "select 'run' as run, 1 as layer, lang, similarity from given"
    )
    opened.execute(view("score_correlation").sql)
    return opened.sql("from score_correlation(scores := 'given')").pl().row(0, named=True)


def frame_nulls_expected(name: str, frame: pl.DataFrame) -> int:
    # An expert that is never used has no mean weight; nothing else is unknown.
    return frame.filter(frequency=0).height if name == "activation" else 0


def agrees_with_reference(
    opened: duckdb.DuckDBPyConnection, worlds: Sequence[World], name: str, arguments: dict[str, Any]
) -> None:
    expected = [
        {"run": world.record.run, **row}
        for world in worlds
        for row in reference.METRICS[name](reference.routing(world), **arguments)
    ]
    found = getattr(metrics, name)(opened, **arguments).to_dicts()
    tolerance = 1e-6 if name in FLOAT32_PROFILES else 1e-9
    assert close(keyed(expected), keyed(found), tolerance)


def keyed(rows: list[dict[str, Any]]) -> dict[tuple[tuple[str, Any], ...], dict[str, float | None]]:
    """Split each row into what identifies it and its values; columns are in any order."""
    made = {
        tuple(sorted((key, value) for key, value in row.items() if key not in VALUES)): {
            key: value for key, value in row.items() if key in VALUES
        }
        for row in rows
    }
    assert len(made) == len(rows)
    return made


def close(expected: dict[Any, dict[str, Any]], found: dict[Any, dict[str, Any]], tolerance: float) -> bool:
    assert expected.keys() == found.keys()
    for key, values in expected.items():
        assert values.keys() == found[key].keys()
        for column, value in values.items():
            other = found[key][column]
            missing = value is None or other is None
            near = value is other if missing else math.isclose(value, other, rel_tol=tolerance, abs_tol=tolerance)
            assert near, (key, column, value, other)
    return True

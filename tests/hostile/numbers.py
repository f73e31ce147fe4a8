"""Numbers that no model, no corpus and no file has, and numbers that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hostile.case import COMMIT, INDEX, RUN
from tests.hostile.hostile import BESIDE, HARMLESS, REFUSED, ROLLUPS, TABLES, Hostile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.case import Case

OF_A_MODEL: dict[str, dict[str, Any]] = {
    "top_k_0": {"top_k": 0},
    "top_k_1": {"top_k": 1},
    "top_k_5": {"top_k": 5},
    "top_k_negative": {"top_k": -1},
    "top_k_true": {"top_k": True},
    "top_k_1.5": {"top_k": 1.5},
    "top_k_2.0": {"top_k": 2.0},
    "top_k_2_to_the_70": {"top_k": 2**70},
    "top_k_text": {"top_k": "2"},
    "top_k_none": {"top_k": None},
    "top_k_above_experts": {"top_k": 9},
    "experts_0": {"num_experts": 0},
    "experts_7": {"num_experts": 7},
    "experts_65536": {"num_experts": 65536},
    "experts_2_to_the_53": {"num_experts": 2**53},
    "layers_unsorted": {"moe_layers": [2, 1, 5]},
    "layers_twice": {"moe_layers": [1, 1, 5]},
    "layers_none": {"moe_layers": []},
    "layers_negative": {"moe_layers": [-1, 2, 5]},
    "layers_text": {"moe_layers": "125"},
    "layers_100000": {"moe_layers": list(range(100_000))},
    "layers_4096_of_65536_experts": {"moe_layers": list(range(4096)), "num_experts": 65536},
    "parameters_2_to_the_70": {"parameters": 2**70},
    "parameters_negative": {"parameters": -1},
    "layers_in_all_2_to_the_62": {"num_layers": 2**62},
}
OF_A_COMMIT: dict[str, dict[str, Any]] = {
    "tokens_6014": {"tokens": 6014},
    "tokens_0": {"tokens": 0},
    "tokens_negative": {"tokens": -1},
    "tokens_2_to_the_53": {"tokens": 2**53},
    "tokens_2_to_the_80": {"tokens": 2**80},
    "sequences_true": {"sequences": True},
    "sequences_10_to_the_15": {"sequences": 10**15},
    "shard_negative": {"shard": -1},
    "shard_1.0": {"shard": 0.0},
    "shard_10_to_the_12": {"shard": 10**12},
    "version_true": {"version": True},
    "version_negative": {"version": -1},
    "version_0": {"version": 0},
    "version_99": {"version": 99},
    "version_2_to_the_70": {"version": 2**70},
    "created_never": {"created": "never"},
    "created_in_the_year_10000": {"created": "10000-01-01T00:00:00+00:00"},
    "created_at_the_end_of_time": {"created": "9999-12-31T23:59:59-23:59"},
    "created_at_the_start_of_time": {"created": "0001-01-01T00:00:00+23:59"},
}
OF_A_FILE: dict[str, dict[str, Any]] = {
    "rows_2_to_the_53": {"rows": 2**53},
    "rows_negative": {"rows": -1},
    "rows_true": {"rows": True},
    "bytes_2_to_the_53": {"bytes": 2**53},
    "bytes_negative": {"bytes": -1},
    "bytes_2_to_the_53_unchecked": {"bytes": 2**53, "crc32": None},
    "bytes_0": {"bytes": 0, "crc32": ""},
    "crc_too_short": {"crc32": ""},
    "crc_too_long": {"crc32": "00000000" * 100_000},
    "crc_newline": {"crc32": "0000000\n"},
    "sha_capitals": {"sha256": "A" * 64},
    "sha_number": {"sha256": 0},
    "table_unknown": {"table": "secrets"},
    "table_rollups": {"table": "rollups"},
}
OF_THE_FORMAT: dict[str, dict[str, Any]] = {
    "true": {"version": True},
    "negative": {"version": -1},
    "0": {"version": 0},
    "99": {"version": 99},
    "2_to_the_70": {"version": 2**70},
    "text": {"version": "4"},
    "4.0": {"version": 4.0},
    "of_something_else": {"format": "moetrace"},
    "unknown_key": {"also": 1},
    "upgraded_from_0": {"upgraded_from": 0},
    "upgraded_from_99": {"upgraded_from": 99},
}


OF_ROUTING: dict[str, dict[str, Any]] = {
    "scale_none": {"scale": None},
    "scale_text": {"scale": "1"},
    "normalized_none": {"normalized": None},
    "normalized_1": {"normalized": 1},
    "scoring_a_list": {"scoring": ["softmax"]},
}


def stores() -> Iterator[tuple[str, Hostile]]:
    for what, fields in OF_A_MODEL.items():
        yield f"model_with_{what}", Hostile(_model(fields), REFUSED)
    for what, fields in OF_A_COMMIT.items():
        yield f"commit_with_{what}", Hostile(_commit(fields), REFUSED)
    for what, fields in OF_A_FILE.items():
        empty = what == "bytes_0"  # a size that a file may have, and this one has not
        yield f"file_with_{what}", Hostile(_file(fields), TABLES if empty else REFUSED, shown=empty)
        if what.startswith(("rows", "bytes", "crc")):
            yield f"index_with_{what}", Hostile(_index_data(fields), ROLLUPS if what == "bytes_0" else BESIDE)
    for what, fields in OF_THE_FORMAT.items():
        yield f"format_{what}", Hostile(_format(fields), REFUSED)
    yield (
        "planned_2_to_the_53_shards",
        Hostile(
            lambda case: case.consistently(
                lambda run: run["corpus"].update(shards={"deu_Latn": 2**53, "eng_Latn": 2**53})
            ),
            HARMLESS,
            shown=True,
        ),
    )
    yield (
        "planned_2_to_the_60_shards",
        Hostile(lambda case: case.consistently(lambda run: run["corpus"].update(shards={"deu_Latn": 2**60})), REFUSED),
    )
    yield (
        "planned_minus_1_shards",
        Hostile(lambda case: case.consistently(lambda run: run["corpus"].update(shards={"deu_Latn": -1})), REFUSED),
    )
    for what, fields in OF_ROUTING.items():
        yield f"routing_with_{what}", Hostile(_routing(fields), REFUSED)
    yield "routing_with_another_scale", Hostile(_routing({"scale": 1e308}), TABLES, shown=True)
    yield (
        "routing_of_nothing",
        Hostile(lambda case: case.consistently(lambda record: record.update(routing={})), REFUSED),
    )
    yield "counts_of_2_to_the_53_tokens", Hostile(_counts_of_many_tokens, TABLES, {"report": None}, shown=True)
    yield "scale_true", Hostile(lambda case: case.consistently(lambda run: run["routing"].update(scale=True)), REFUSED)
    yield (
        "a_run_of_268_million_experts_and_no_shard",
        Hostile(_huge_run_without_shards, REFUSED),
    )
    yield "a_hundred_runs_of_a_million_experts", Hostile(_many_runs, HARMLESS, shown=True)


def _model(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.consistently(lambda record: record["model"].update(fields))


def _routing(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.consistently(lambda record: record["routing"].update(fields))


def _counts_of_many_tokens(case: Case) -> None:
    """Make it a run of which only counts are known, which nothing holds against the numbers of its texts."""
    case.consistently(lambda record: record["settings"].update(tables=["usage"]))
    for path in case.store.glob("commits/run=run/lang=*/*.json"):
        name = str(path.relative_to(case.store))
        case.change(name, lambda record: record.update(files=record["files"][-1:], tokens=2**53, sequences=2**53))


def _commit(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.fields(COMMIT, **fields)


def _file(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.change(COMMIT, lambda record: record["files"][0].update(fields))


def _index_data(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.change(INDEX, lambda index: index["data"].update(fields))


def _format(fields: dict[str, Any]) -> Callable[[Case], object]:
    return lambda case: case.fields("store.json", **fields)


def _huge_run_without_shards(case: Case) -> None:
    case.write("runs/huge.json", (case.store / RUN).read_bytes())
    case.fields("runs/huge.json", run="huge")
    case.change("runs/huge.json", lambda run: run["model"].update(moe_layers=list(range(4096)), num_experts=65536))


def _many_runs(case: Case) -> None:
    content = (case.store / RUN).read_bytes()
    for number in range(100):
        path = f"runs/run{number}.json"
        case.write(path, content)
        case.fields(path, run=f"run{number}")
        case.change(path, lambda run: run["model"].update(moe_layers=list(range(16)), num_experts=65536))

"""Paths in records that lead to where the record is not of: out of the store, or to another's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.hostile.case import COMMIT, INDEX, OTHER_COMMIT
from tests.hostile.hostile import BESIDE, REFUSED, ROLLUPS, Hostile
from tests.support.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.case import Case

PATHS = {
    "up": "../canary/store/routes/run=run/lang=deu_Latn/00000.parquet",
    "up_again": "routes/../../canary/secret.csv",
    "up_in_the_middle": "routes/run=run/lang=deu_Latn/../lang=deu_Latn/00000.parquet",
    "absolute": "/etc/hostname",
    "of_another_language": "routes/run=run/lang=eng_Latn/00000.parquet",
    "of_another_shard": "routes/run=run/lang=deu_Latn/00001.parquet",
    "of_another_run": "routes/run=general/lang=deu_Latn/00000.parquet",
    "of_another_table": "usage/run=run/lang=deu_Latn/00000.parquet",
    "of_a_record": COMMIT,
    "of_the_format": "store.json",
    "a_url": "http://127.0.0.1:9/routes/run=run/lang=deu_Latn/00000.parquet",
    "a_bucket": "s3://bucket/routes/run=run/lang=deu_Latn/00000.parquet",
    "as_sql_says_it": "moetrace://routes/run=run/lang=deu_Latn/00000.parquet",
    "a_file_url": "file:///etc/hostname",
    "short_number": "routes/run=run/lang=deu_Latn/0.parquet",
    "long_number": "routes/run=run/lang=deu_Latn/000000.parquet",
    "slashes": "routes//run=run/lang=deu_Latn/00000.parquet",
    "dots": "./routes/run=run/lang=deu_Latn/00000.parquet",
    "a_pattern": "routes/run=run/lang=*/00000.parquet",
    "nul": "routes/run=run/lang=deu_Latn/00000.parquet\0.parquet",
    "newline": "routes/run=run/lang=deu_Latn/00000.parquet\n",
    "quote": "routes/run=run/lang=deu_Latn/00000.parquet', '/etc/hostname",
    "hidden": "routes/run=run/lang=deu_Latn/.00000.parquet",
    "capitals": "ROUTES/run=run/lang=deu_Latn/00000.parquet",
    "backslashes": "routes\\run=run\\lang=deu_Latn\\00000.parquet",
    "quarantined": "quarantine/20200101T000000Z-00000000/routes/run=run/lang=deu_Latn/00000.parquet",
}


def stores() -> Iterator[tuple[str, Hostile]]:
    for what, path in PATHS.items():
        yield f"path_{what}", Hostile(_path_said(path), REFUSED)
    for what in ("up", "absolute", "of_another_language", "a_url", "nul", "quote", "a_pattern", "of_the_format"):
        yield f"index_path_{what}", Hostile(_index_path_said(PATHS[what]), BESIDE)
    yield "path_twice", Hostile(_path_twice, REFUSED)
    yield "index_of_another_run", Hostile(_index_of_another_run, BESIDE)
    yield (
        "index_data_of_another_run",
        Hostile(
            lambda case: case.change(
                INDEX, lambda index: index["data"].update(path=index["data"]["path"].replace("run=run", "run=general"))
            ),
            BESIDE,
        ),
    )
    yield "index_entries_swapped", Hostile(_entries_swapped, BESIDE)
    yield "index_of_other_tokens", Hostile(_index_of_other_tokens, ROLLUPS, shown=True)
    yield "record_of_another_shard", Hostile(_copied(COMMIT, OTHER_COMMIT), REFUSED)
    yield "record_of_another_run", Hostile(_copied("commits/run=general/lang=deu_Latn/00000.json", COMMIT), REFUSED)
    yield "run_record_of_another_run", Hostile(_copied("runs/general.json", "runs/run.json"), REFUSED)
    yield "commit_of_an_unknown_run", Hostile(_copied(COMMIT, COMMIT.replace("run=run", "run=ghost")), REFUSED)
    yield "commit_under_another_record", Hostile(lambda case: case.fields(COMMIT, run_sha256="0" * 64), REFUSED)
    for number in ("0", "000000", "0000000001", "00001\n", "-0001", "\u0660\u0660\u0660\u0660\u0660"):
        yield f"commit_file_numbered_{number!a}", Hostile(_copied(COMMIT, COMMIT.replace("00000", number)), REFUSED)


def _path_said(path: str) -> Callable[[Case], object]:
    def change(record: dict[str, Any]) -> None:
        next(file for file in record["files"] if file["table"] == "routes")["path"] = path

    return lambda case: case.change(COMMIT, change)


def _path_twice(case: Case) -> None:
    def change(record: dict[str, Any]) -> None:
        record["files"].append(dict(record["files"][0]))
        del record["files"][1]

    case.change(COMMIT, change)


def _index_path_said(path: str) -> Callable[[Case], object]:
    return lambda case: case.change(INDEX, lambda index: index["data"].update(path=path))


def _index_of_another_run(case: Case) -> None:
    case.write(INDEX.replace("run=run", "run=general"), (case.store / INDEX).read_bytes())


def _index_of_other_tokens(case: Case) -> None:
    """Let the index have commit records of more tokens than those that it says it was made from."""

    def change(index: dict[str, Any]) -> None:
        for entry in index["entries"].values():
            entry["record"]["tokens"] += 1
            for file in entry["record"]["files"]:
                file["rows"] += {"tokens": 1, "routes": 6}.get(file["table"], 0)

    case.change(INDEX, change)


def _entries_swapped(case: Case) -> None:
    def change(index: dict[str, Any]) -> None:
        paths = list(index["entries"])
        values = list(index["entries"].values())
        index["entries"] = dict(zip(paths, [*values[1:], values[0]], strict=True))

    case.change(INDEX, change)


def _copied(path: str, to: str) -> Callable[[Case], object]:
    return lambda case: case.write_json(to, read_record(case.store / path))

"""Results of every type that DuckDB has, in every format: a value that can be read again, and never a traceback."""

from __future__ import annotations

import csv
import io
import json

import duckdb
import polars as pl
import pytest

from moetrace.analytics.database.errors import QueryError
from moetrace.analytics.database.results import file_content, frame_of, table_rows

DB = duckdb.connect()
VALUES = {  # SQL -> the text of its value in a CSV
    "1::tinyint": "1",
    "170141183460469231731687303715884105727::hugeint": "170141183460469231731687303715884105727",
    "340282366920938463463374607431768211455::uhugeint": "340282366920938463463374607431768211455",
    "sum(1)": "1",
    "'nan'::double": "NaN",
    "'-inf'::float": "-inf",
    "1.25::decimal(10, 2)": "1.25",
    "true": "true",
    "null": "",
    "'a\u0442\u0435\u043a\u0441\u0442\n\"quoted\"'": 'a\u0442\u0435\u043a\u0441\u0442\n"quoted"',
    "repeat('x', 3000000)": "x" * 3000000,
    "'\\xAA'::blob": "\\xAA",
    "'101'::bit": "101",
    "'12'::bignum": "12",
    "interval 1 month": "1 month",
    "'00000000-0000-0000-0000-000000000001'::uuid": "00000000-0000-0000-0000-000000000001",
    "'x'::enum('x', 'y')": "x",
    "date '2024-01-02'": "2024-01-02",
    "'infinity'::date": "infinity",
    "timestamp '2024-01-02 03:04:05.5'": "2024-01-02T03:04:05.500000",
    "'infinity'::timestamp": "infinity",
    "'-infinity'::timestamp": "-infinity",
    "'infinity'::timestamp_s": "infinity",
    "'infinity'::timestamptz": "infinity",
    "'290000-01-01'::timestamp": "290000-01-01 00:00:00",
    "time '12:00:00'": "12:00:00.000000000",
    "'24:00:00'::time": "24:00:00",
    "timetz '12:00:00+02'": "12:00:00+02",
    "1::variant": "1",
    "union_value(a := 1)": "1",
    "[1, null]": "[1,null]",
    "[1, 2]::integer[2]": "[1,2]",
    "{'a': 1, 'B \"c': ['x']}": '{"a":1,"B \\"c":["x"]}',
    "map {1: interval 1 day}": '{"1":"1 day"}',
    "row(1, interval 1 month)": "(1, 1 month)",
    "struct_pack()": "{}",
    "[union_value(a := 1)]": '["1"]',
    "['infinity'::timestamp, null]": '["infinity",null]',
    "{'a': [{'b': '\\xAA'::blob, 'c': timetz '12:00:00+02'}]}": '{"a":[{"b":"\\\\xAA","c":"12:00:00+02"}]}',
}
MOMENT = "timestamptz '2024-01-02 03:04:05+00'"


def content(query: str, file_format: str) -> bytes:
    frame, _ = frame_of(DB.sql(query), file_format)
    return file_content(frame, file_format)


@pytest.mark.parametrize("value", [*VALUES, MOMENT])
def test_any_type_is_a_csv(value: str) -> None:
    csv.field_size_limit(1 << 24)
    header, *rows = csv.reader(io.StringIO(content(f"select {value} as v, 7 as n", "csv").decode()))
    assert header == ["v", "n"]
    ((text, number),) = rows
    assert number == "7"
    assert text == VALUES[value] if value in VALUES else text.startswith("2024-01-02T03:04:05")


@pytest.mark.parametrize("value", [*VALUES, MOMENT])
def test_any_type_is_json(value: str) -> None:
    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    ((found),) = json.loads(content(f"select {value} as v, 7 as n", "json"), parse_constant=refused)
    assert list(found) == ["v", "n"]
    assert found["n"] == 7
    if "inf" in VALUES.get(value, "") and "::timestamp" in value:
        assert "infinity" in str(found["v"])


@pytest.mark.parametrize("value", [*VALUES, MOMENT])
def test_any_type_is_a_parquet_that_duckdb_reads(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("parquet") / "rows.parquet"
    if "hugeint" in value:  # of more digits than Parquet has
        with pytest.raises(QueryError, match=r"DECIMAL\(38,0\)"):
            content(f"select {value} as v", "parquet")
        return
    path.write_bytes(content(f"select {value} as v, 7 as n", "parquet"))
    read = duckdb.connect()
    ((found, number),) = read.sql(f"select v::varchar, n from read_parquet('{path}')").fetchall()
    ((expected,),) = DB.sql(f"select ({value})::varchar").fetchall()
    assert number == 7
    loose = value.startswith(
        ("map", "row", "[union", "{'a': 1,", "{'a': [", "timestamptz", "'x'::")
    )  # other words for it
    assert loose or found == expected


@pytest.mark.parametrize("value", [*VALUES, MOMENT])
def test_any_type_is_a_row_of_a_table(value: str) -> None:
    ((found, number),) = table_rows(DB.sql(f"select {value} as v, 7 as n"), 10)
    assert number == 7
    if "infinity" in VALUES.get(value, ""):
        assert "infinity" in str(found)


def test_columns_of_one_name_get_names_of_their_own() -> None:
    query = "select 1 as a, 2 as a, 3 as a_1, 4 as a, 5 as b"
    for file_format in ("csv", "json", "parquet"):
        frame, renamed = frame_of(DB.sql(query), file_format)
        assert frame.columns == ["a", "a_2", "a_1", "a_3", "b"]
        assert frame.rows() == [(1, 2, 3, 4, 5)]
        assert renamed == {1: "a_2", 3: "a_3"}
    assert table_rows(DB.sql(query), 1) == [(1, 2, 3, 4, 5)]


@pytest.mark.parametrize("query", ["select 1 as a, now() as b where false", "explain select 1", "show tables"])
def test_results_that_are_empty_or_of_no_select(query: str) -> None:
    relation = DB.sql(query)
    for file_format in ("csv", "json", "parquet"):
        frame, _ = frame_of(relation, file_format)
        assert frame.columns == relation.columns
        assert file_content(frame, file_format)
    assert isinstance(table_rows(relation, 5), list)


def test_rows_keep_their_order() -> None:
    db = duckdb.connect()
    db.execute("set preserve_insertion_order = false")
    frame, _ = frame_of(db.sql("select range as i, interval 1 day as d from range(300000) order by hash(range)"), "csv")
    expected = db.sql("select range as i from range(300000) order by hash(range)").fetchall()
    assert frame["i"].to_list() == [i for (i,) in expected]


def test_a_far_moment_makes_text_of_its_column_alone() -> None:
    query = "from (values ('infinity'::timestamp, 1), ('2024-01-02'::timestamp, 2), (null, 3)) as t(v, n) order by n"
    frame, _ = frame_of(DB.sql(query), "csv")
    assert frame.schema == {"v": pl.String, "n": pl.Int32}
    first, second, third = frame["v"]
    assert first == "infinity"
    assert second.startswith("2024-01-02 00:00:00")
    assert third is None

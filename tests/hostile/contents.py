"""Data files with right checksums that are not what their name says."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.hostile.case import COMMIT, INDEX, file_facts
from tests.hostile.hostile import HARMLESS, ROLLUPS, TABLES, Hostile
from tests.support.records import change_record, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from tests.hostile.case import Case

BYTES: dict[str, bytes] = {
    "empty": b"",
    "text": b"a,b\n1,2\n",
    "magic_only": b"PAR1PAR1",
    "a_footer_of_4_gigabytes": b"PAR1" + b"\xff" * 64 + b"\xff\xff\xff\xff" + b"PAR1",
    "a_footer_of_nothing": b"PAR1" + b"\0" * 64 + b"\0\0\0\0" + b"PAR1",
    "a_footer_of_rubbish": b"PAR1" + b"\x15\x15" * 500 + (1000).to_bytes(4, "little") + b"PAR1",
    "encrypted": b"PARE" + b"\x15\x15" * 500 + (1000).to_bytes(4, "little") + b"PARE",
    "a_database": b"\0" * 8 + b"DUCK" + b"\0" * 4096,
    "zip": b"PK\x05\x06" + b"\0" * 18,
}


def stores() -> Iterator[tuple[str, Hostile]]:
    for what, content in BYTES.items():
        yield f"usage_{what}", Hostile(_bytes("usage", content), ROLLUPS, shown=True)
        yield f"routes_{what}", Hostile(_bytes("routes", content), TABLES, shown=True)
    changes: dict[str, Callable[[pa.Table], pa.Table]] = {
        "no_rows": lambda table: table.slice(0, 0),
        "a_row_less": lambda table: table.slice(1),
        "rows_twice": _twice,
        "a_column_less": lambda table: table.drop_columns(table.schema.names[-1]),
        "a_column_more": _one_more,
        "other_names": lambda table: table.rename_columns([f"x{name}" for name in table.schema.names]),
        "names_of_sql": lambda table: table.rename_columns(
            [f'{name}", (select 1) as "' for name in table.schema.names]
        ),
        "partition_columns": _partitions,
        "texts": lambda table: _cast(table, "string"),
        "floats": lambda table: _cast(table, "float64"),
        "lists": _lists,
        "nulls": _nulls,
        "negative": lambda table: _values(table, -1),
        "above_all_experts": lambda table: _values(table, 250),
        "nan": lambda table: _floats(table, float("nan")),
        "infinities": lambda table: _floats(table, float("inf")),
        "floats_of_1e308": lambda table: _floats(table, 1e308),
        "the_largest_numbers": lambda table: _values(table, 2**62),
    }
    for what, change in changes.items():
        yield (
            f"usage_with_{what}",
            Hostile(lambda case, change=change: case.parquet("usage", change), TABLES, shown=True),
        )
        yield (
            f"routes_with_{what}",
            Hostile(lambda case, change=change: case.parquet("routes", change), TABLES, shown=True),
        )
        if what not in {"nan", "infinities", "floats_of_1e308"}:  # texts have no such column
            yield (
                f"sequences_with_{what}",
                Hostile(lambda case, change=change: case.parquet("sequences", change), TABLES, shown=True),
            )
    for table, rows in (("usage", 1_000_000), ("routes", 1_000_000), ("sequences", 50_000)):  # texts meet in pairs
        build = partial(_with_rows, table=table, rows=rows)
        yield f"{table}_with_{rows}_rows", Hostile(build, TABLES, shown=True)
    yield "usage_of_3000_row_groups", Hostile(_row_groups("usage"), HARMLESS, shown=True)
    yield "compacted_counts_twice", Hostile(_compacted(_counted_twice), ROLLUPS, shown=True)
    yield "compacted_rubbish", Hostile(_compacted(lambda _: BYTES["text"]), ROLLUPS, shown=True)
    yield (
        "compacted_other_columns",
        Hostile(
            _compacted(lambda table: _written(table.rename_columns([f"x{name}" for name in table.schema.names]))),
            ROLLUPS,
            shown=True,
        ),
    )
    yield "compacted_texts", Hostile(_compacted(lambda table: _written(_cast(table, "string"))), ROLLUPS, shown=True)
    yield "compacted_3_million_rows", Hostile(_compacted(_bomb), ROLLUPS, shown=True)


def _bytes(table: str, content: bytes) -> Callable[[Case], object]:
    return lambda case: case.data(table, content)


def _twice(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([table, table])


def _with_rows(case: Case, table: str, rows: int) -> None:
    case.parquet(table, lambda found: found.take([0] * rows))


def _one_more(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return table.append_column("more", pa.array(["x' or 1=1"] * len(table)))


def _partitions(table: pa.Table) -> pa.Table:
    """Bring columns of the names that a view takes from the path."""
    import pyarrow as pa

    for name in ("run", "lang", "shard", "filename"):
        table = table.append_column(name, pa.array(["general"] * len(table)))
    return table


def _cast(table: pa.Table, kind: str) -> pa.Table:
    import pyarrow as pa

    if kind == "float64":
        numbers = [pa.types.is_integer(field.type) for field in table.schema]
        fields = [
            pa.field(field.name, pa.float64()) if number else field
            for field, number in zip(table.schema, numbers, strict=True)
        ]
        return table.cast(pa.schema(fields))
    return table.cast(pa.schema([pa.field(name, pa.string()) for name in table.schema.names]))


def _lists(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.table({name: [[value]] * len(table) for name, value in table.to_pylist()[0].items()})


def _nulls(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.table({field.name: pa.nulls(len(table), field.type) for field in table.schema})


def _values(table: pa.Table, value: int) -> pa.Table:
    """Fill every column of whole numbers with one, as far as its type holds it."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for field in table.schema:
        filled = pa.types.is_integer(field.type)
        if filled:
            most = (1 << (field.type.bit_width - pa.types.is_signed_integer(field.type))) - 1
            fits = value >= 0 or pa.types.is_signed_integer(field.type)
            columns[field.name] = pa.array([min(value, most) if fits else 0] * len(table), field.type)
        else:
            columns[field.name] = table.column(field.name)
    return pa.table(columns)


def _floats(table: pa.Table, value: float) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            field.name: pa.array([value] * len(table), field.type)
            if pa.types.is_floating(field.type)
            else table.column(field.name)
            for field in table.schema
        }
    )


def _row_groups(table: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        case.data(table, _written(_read(case, table), row_group_size=1))

    return build


def _read(case: Case, table: str) -> pa.Table:
    import pyarrow.parquet as pq

    path = next(file["path"] for file in read_record(case.store / COMMIT)["files"] if file["table"] == table)
    return pq.read_table(case.store / path, partitioning=None)


def _written(table: pa.Table, **options: Any) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _compacted(change: Callable[[pa.Table], bytes]) -> Callable[[Case], object]:
    """Put other compacted roll-ups in the place of those that there are, and right checksums in their index."""

    def build(case: Case) -> None:
        import pyarrow.parquet as pq

        path = read_record(case.store / INDEX)["data"]["path"]
        content = change(pq.read_table(case.store / path, partitioning=None))
        case.write(path, content)
        change_record(case.store / INDEX, lambda index: index["data"].update(file_facts(content)))

    return build


def _counted_twice(table: pa.Table) -> bytes:
    import pyarrow.compute as pc

    at = table.schema.get_field_index("count")
    return _written(table.set_column(at, table.schema.field(at), pc.multiply(table.column(at), 2)))


def _bomb(table: pa.Table) -> bytes:
    """A small file of very many rows, all the same."""
    import pyarrow.parquet as pq

    part = table.take([0] * 1_000_000)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, part.schema, compression="zstd") as writer:
        for _ in range(3):
            writer.write_table(part)
    return sink.getvalue()

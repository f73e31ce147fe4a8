"""The tables of docs/reference/store-format.md and mask-format.md: columns of Parquet files, fields of JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moetrace.store.format.schema import ADDED_COLUMNS, TABLE_NAMES, tables
from tests.reference_pages.markdown import cell, code_cell, table
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOGICAL = {"uint8": "UINT_8", "uint16": "UINT_16", "string": "STRING"}
CODECS = {"zstd": "ZSTD", "lz4": "LZ4_RAW"}
PHYSICAL = {
    "uint8": "INT32",
    "uint16": "INT32",
    "int32": "INT32",
    "int64": "INT64",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "string": "BYTE_ARRAY",
}


def parquet_columns() -> str:
    """Return a table of columns for each table of a store, of at most 256 experts a layer."""
    parts = []
    for name in TABLE_NAMES:
        found = tables(256)[name]
        since = {column: version for version, added in ADDED_COLUMNS.items() for column in added.get(name, {})}
        rows = []
        for field in found.schema:
            logical = LOGICAL.get(str(field.type))
            kind = PHYSICAL[str(field.type)] + (f", {logical}" if logical else "")
            words = field.metadata[b"description"].decode()
            words += f"; since version {since[field.name]}" if field.name in since else ""
            encoding = found.encodings.get(field.name, "PLAIN")
            rows.append([code_cell(field.name), kind, "yes" if field.nullable else "no", encoding, cell(words)])
        columns = table(["column", "Parquet type", "null", "encoding", "meaning"], rows)
        bounds = ", ".join(f"`{column}`" for column in found.statistics) or "none"
        parts.append(f"### {name}\n\nCompression {CODECS[found.codec]}; statistics of: {bounds}.\n\n{columns}")
    return "\n\n".join(parts)


def mask_fields() -> str:
    """Return a table of every field of a mask, from its JSON Schema."""
    schema = json.loads((ROOT / "store" / "mask.schema.json").read_text(encoding="utf-8"))
    return table(["field", "type", "", "meaning"], _fields(schema, ""))


def _fields(schema: Mapping[str, Any], place: str) -> Iterator[list[str]]:
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        path = f"{place}{name}"
        needed = "required" if name in required else "optional"
        yield [code_cell(path), cell(_type(field)), needed, cell(field.get("description", ""))]
        if "properties" in field:
            yield from _fields(field, f"{path}.")
        elif "properties" in field.get("items", {}):
            yield from _fields(field["items"], f"{path}[].")


def _type(field: Mapping[str, Any]) -> str:
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    words = " or ".join(f"array of {field['items']['type']}s" if kind == "array" else kind for kind in kinds)
    least, most = field.get("minimum"), field.get("maximum")
    bounds = f"from {least}" + (f" to {most}" if most is not None else "") if least is not None else ""
    return f"{words} {bounds}".strip()

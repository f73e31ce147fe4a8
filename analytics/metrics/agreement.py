"""The view `route_agreement` text by text, of runs that may be in two stores, a layer of some languages at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from moetrace.analytics.database.errors import translate_duckdb_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

QUERY = """
    select
        routes.lang,
        text.text_id,
        token.position,
        token.token_id,
        routes.expert::integer as expert,
        routes.weight::double as weight
    from routes
    inner join tokens as token using (run, lang, shard, token)
    inner join sequences as text using (run, lang, shard, seq)
    where routes.run = $run and list_contains($languages, routes.lang) and routes.layer = $layer"""
SCHEMA = {
    "lang": pl.String,
    "text_id": pl.String,
    "tokens": pl.UInt32,
    "other_tokens": pl.UInt32,
    "equal_sets": pl.UInt32,
    "shared": pl.UInt32,
    "weight_errors": pl.Float64,
    "largest_weight_error": pl.Float64,
}


def decisions(connection: duckdb.DuckDBPyConnection, run: str, languages: Sequence[str], layer: int) -> pl.DataFrame:
    """Return the routing decisions of some languages in a layer: lang, text_id, position, token_id, expert, weight."""
    with translate_duckdb_errors():
        frame: pl.DataFrame = connection.sql(
            QUERY, params={"run": run, "languages": list(languages), "layer": layer}
        ).pl()
    return frame


def agreement_by_text(first: pl.DataFrame, second: pl.DataFrame, top_k: int) -> pl.DataFrame:
    """Return how alike two runs route the tokens of each text that both have, from the `decisions` of each.

    columns: lang, text_id, tokens (same position and same id), other_tokens (same position, another id, not compared),
    and of the compared ones equal_sets, shared (experts that both chose), weight_errors and largest_weight_error (of
    shared experts); sums, of which `route_agreement` has the quotients
    """
    place = ["lang", "text_id", "position"]
    ours, theirs = (frame.select(*place, "token_id").unique() for frame in (first, second))
    places = ours.join(theirs, on=place, suffix="_other").with_columns(
        same=pl.col("token_id").eq_missing(pl.col("token_id_other"))
    )
    shared = first.join(second, on=[*place, "expert"], suffix="_other").with_columns(
        error=(pl.col("weight") - pl.col("weight_other")).abs()
    )
    by_token = shared.group_by(place).agg(shared=pl.len(), errors=pl.col("error").sum(), largest=pl.col("error").max())
    return (
        places.join(by_token, on=place, how="left")
        .group_by("lang", "text_id")
        .agg(
            tokens=pl.col("same").sum(),
            other_tokens=(~pl.col("same")).sum(),
            equal_sets=(pl.col("same") & (pl.col("shared") == top_k)).sum(),
            shared=pl.col("shared").filter(pl.col("same")).sum(),
            weight_errors=pl.col("errors").filter(pl.col("same")).sum(),
            largest_weight_error=pl.col("largest").filter(pl.col("same")).max(),
        )
        .sort("lang", "text_id")
        .cast(SCHEMA)  # type: ignore[arg-type]
    )

"""What `moetrace trace --dry-run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.cli.inspection import duration, size

if TYPE_CHECKING:
    from moetrace.tracer.runs.sizing import Sizing


def sizing_lines(found: Sizing) -> list[str]:
    """Return what a job takes, a fact a line."""
    summary = found.summary
    at_most = "at most " if found.tokens > summary.tokens else ""
    stores = []
    for grid, sizes in found.store_bytes.items():
        tables = ", ".join(f"{table} {size(of)}" for table, of in sizes.items())
        stores.append(f"{size(sum(sizes.values()))} ({f'{grid} weights: ' if 'routes' in sizes else ''}{tables})")
    stores = stores if any("routes" in sizes for sizes in found.store_bytes.values()) else stores[:1]
    rows = {
        "job": f"{len(summary.languages):,} languages, {summary.texts:,} texts, {at_most}{found.tokens:,} tokens in "
        f"{summary.shards:,} shards",
        "decisions": f"{at_most}{found.decisions:,} (layer, token, expert)",
        "store": f"about {' to '.join(stores)}" if stores else "f32 weights: not measured; give another grid to know",
        "files": f"{found.files:,}",
        "memory": f"{size(found.memory)} of captured shards at most, the largest {size(found.largest_shard)}",
        "time": _time(found),
    }
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]


def _time(found: Sizing) -> str:
    cores = f"{duration(found.writing_seconds)} of one core for capture and writing"
    if found.rate is None or found.seconds is None or found.engine_seconds is None or found.cores_for_writing is None:
        return f"{cores}; say with --rate how many tokens a second an engine reads to know the rest"
    by = "1 engine" if found.workers == 1 else f"{found.workers:,} engines"
    enough = "" if found.cores_for_writing <= found.writers else f", more than --writers {found.writers} can do"
    return (
        f"about {duration(found.seconds)} with {by} at {found.rate:,.0f} tokens/s each ({found.rate_from}), "
        f"{duration(found.engine_seconds)} of engines in all; {cores}, {found.cores_for_writing:.2f} cores beside each "
        f"engine{enough}"
    )

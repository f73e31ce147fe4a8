"""What the page says of a single expert: how much it is used, by which languages most, and where it ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.analytics.database.quoting import literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from moetrace.analytics.report.source import Source

FIRST = 5  # languages of an expert, by each order


def expert_queries(source: Source, targets: Sequence[str]) -> dict[str, str]:
    """Return the SQL of `experts`, a row an expert, and of `expert_languages`, a row an expert and language of its own.

    Its own are the FIRST by specificity (of one expert that is the order by activation frequency as well), the FIRST by
    the expert's rank in them, and `targets`. Ranks are among all experts of the run, 1 the first: of a language by
    frequency (as top-k selects) and by score (as RISE does), of all languages by the mean frequency and by the overlap
    score.
    """
    known = [lang for lang in targets if lang in source.languages]
    targeted = f"lang in ({', '.join(map(literal, known))})" if known else "false"
    return {
        "experts": f"""with used as (
    select layer, expert, avg(frequency) as frequency, count(*) filter (frequency > 0) as languages
    from activation
    where {source.this_run}
    group by layer, expert
)

select
    layer,
    expert,
    used.frequency,
    used.languages,
    overlap,
    rank() over (order by round(used.frequency, 12) desc) as frequency_rank,
    rank() over (order by round(score, 9) desc) as overlap_rank
from used
inner join (select * from overlap where {source.this_run}) using (layer, expert)
order by layer, expert""",
        "expert_languages": f"""with ranked as (
    select
        lang,
        layer,
        expert,
        frequency,
        specificity,
        rank() over (partition by lang order by frequency desc) as frequency_rank,
        rank() over (partition by lang order by round(score, 9) desc) as score_rank,
        row_number() over (partition by layer, expert order by round(specificity, 9) desc, lang) as by_specificity
    from specificity
    inner join activation using (run, lang, layer, expert)
    where {source.this_run}
)

select
    *,
    row_number() over (partition by layer, expert order by score_rank, lang) as by_rank
from ranked
qualify frequency > 0 and (by_specificity <= {FIRST} or by_rank <= {FIRST}) or {targeted}
order by layer, expert, by_specificity""",
    }


def expert_frames(source: Source, targets: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Return both tables, or none where the run does not say how often experts are used."""
    if source.reason_without_counts:
        return {}
    return {name: source.frame(query) for name, query in expert_queries(source, targets).items()}

"""Section: the experts that a mask selects, where they lie, and how much of each language's routing they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from moetrace.analytics.database.quoting import literal
from moetrace.analytics.report.expert_charts import expert_axis, layer_rows, on_grid
from moetrace.analytics.report.layer_charts import row_step
from moetrace.analytics.report.mask_input import mask_command, mask_facts, mask_frame
from moetrace.analytics.report.section import Section, Table, figure
from moetrace.analytics.report.style import GREYS, OTHERS, ROLES
from moetrace.store.mask import mask_targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.analytics.report.source import Source

TOP = 20
DARKEST = 4  # specificity at which the grey behind a mask ends
MOST_STEP = 20
MASK_TABLE = """-- In a database that may read files: connect(store, locked=False).
create table mask as
select unnest(experts, recursive := true)
from 'mask.json';

"""


def mask_section(source: Source, mask: Mapping[str, Any]) -> Section:
    """Return the mask on the layer x expert grid, what it takes of each language, and its best experts."""
    targets = mask_targets(mask)
    known = next((lang for lang in targets if lang in source.languages), None)
    background = f"specificity for {known}" if known else "overlap of the languages"
    queries = {"mask_grid": _background_query(source, known), "mask_coverage": _coverage_query(source)}
    section = Section(
        name="mask",
        title="The mask",
        reading=(
            f"Coloured cells are the experts that the mask selects; the grey behind them is the {background}, stronger "
            "for more. The bars say which part of each language's routing decisions goes to the mask's experts: a mask "
            "that is the target's own takes much of the target's and little of the others'."
        ),
        formula="coverage = mean over MoE layers of the sum of the activation share p over the mask's experts",
        queries={**queries, "mask_coverage": MASK_TABLE + queries["mask_coverage"]},
        facts=mask_facts(mask),
        command=mask_command(mask),
    )
    experts = mask_frame(mask)
    if experts.is_empty():
        return section.without_data("The mask selects no expert.")
    if source.reason_without_counts:
        return section.without_data(source.reason_without_counts)
    source.connection.register("mask", experts)
    grid, covered = source.frame(queries["mask_grid"]), source.frame(queries["mask_coverage"])
    roles = [role for role in ROLES if role in experts["role"]]
    return section.with_data(
        {"mask_grid": grid, "mask": experts, "mask_coverage": covered},
        findings=_findings(covered, targets),
        tables=(_zones(source, experts, roles), _best(grid, experts, known)),
        figures=(
            figure(
                "mask_grid",
                f"Selected experts by role, over the {background}",
                _grid(source, background, roles, known),
                ("mask_grid", "mask", "zones"),
                renderer="canvas",
            ),
            figure(
                "mask_coverage",
                "Part of each language's routing decisions that the mask's experts take",
                _bars(covered, targets),
                ("mask_coverage",),
            ),
        ),
    )


def _background_query(source: Source, target: str | None) -> str:
    if target is None:
        return f"""select layer, expert, overlap as background
from overlap
where {source.this_run}
order by layer, expert"""
    return f"""select layer, expert, frequency, specificity as background
from specificity
inner join activation using (run, lang, layer, expert)
where {source.this_run} and lang = {literal(target)}
order by layer, expert"""


def _coverage_query(source: Source) -> str:
    return f"""select
    lang,
    sum(share) / (select count(*) from moe_layers where {source.this_run}) as coverage
from activation
inner join mask using (layer, expert)
where {source.this_run}
group by lang
order by coverage desc, lang"""


def _grid(source: Source, background: str, roles: list[str], target: str | None) -> alt.LayerChart:
    layers = source.record.moe_layers
    x, y = expert_axis(source.record.num_experts), layer_rows(layers)
    level = f"min(datum.background, {DARKEST})" if target else "datum.background"
    grey = alt.Color("level:Q", title=background, scale=alt.Scale(range=list(GREYS), zero=True, nice=False))
    about = [
        alt.Tooltip("layer:O"),
        alt.Tooltip("expert:O"),
        alt.Tooltip("background:Q", title=background, format=".3f"),
    ]
    if target:
        about.append(alt.Tooltip("frequency:Q", title=f"part of the tokens of {target}", format=".2%"))
    cells = (
        alt.Chart(alt.NamedData("mask_grid"))
        .transform_calculate(level=level)
        .mark_rect()
        .encode(x=x, y=y, color=grey, tooltip=about)
    )
    chosen = (
        alt.Chart(alt.NamedData("mask"))
        .mark_rect(stroke=GREYS[0], strokeWidth=0.5)
        .encode(
            x=x,
            y=y,
            fill=alt.Fill("role:N", title="role", scale=alt.Scale(domain=roles, range=[ROLES[role] for role in roles])),
            tooltip=[
                alt.Tooltip("layer:O"),
                alt.Tooltip("expert:O"),
                alt.Tooltip("role:N"),
                alt.Tooltip("zone:N"),
                alt.Tooltip("score:Q", format=".4g"),
            ],
        )
    )
    return on_grid(len(layers), cells, chosen)


def _bars(covered: pl.DataFrame, targets: Sequence[str]) -> alt.Chart:
    step = min(MOST_STEP, row_step(covered.height))
    names = alt.Axis(title=None, labelFontSize=min(11, step - 1), labelOverlap=True, ticks=False)
    chart: alt.Chart = (
        alt.Chart(alt.NamedData("mask_coverage"))
        .mark_bar(height=alt.RelativeBandSize(band=0.72))
        .encode(
            x=alt.X("coverage:Q", title="part of routing decisions", axis=alt.Axis(format="%", tickCount=6)),
            y=alt.Y("lang:N", sort=covered["lang"].to_list(), axis=names),
            color=alt.condition(
                alt.FieldOneOfPredicate(field="lang", oneOf=list(targets)),
                alt.value(ROLES["specific"]),
                alt.value(OTHERS),
            ),
            tooltip=[alt.Tooltip("lang:N", title="language"), alt.Tooltip("coverage:Q", format=".2%")],
        )
        .properties(width="container", height=step * covered.height)
    )
    return chart


def _findings(covered: pl.DataFrame, targets: Sequence[str]) -> tuple[str, ...]:
    own = covered.filter(pl.col("lang").is_in(list(targets)))
    others = covered.filter(~pl.col("lang").is_in(list(targets)))
    if own.is_empty():
        return (f"The mask's experts take {_mean(covered):.1%} of the languages' routing decisions on average.",)
    sentence = f"The mask's experts take {_mean(own):.1%} of the routing decisions of {', '.join(own['lang'])}"
    if others.is_empty():
        return (f"{sentence}.",)
    return (f"{sentence}, and {_mean(others):.1%} of those of the other languages on average.",)


def _mean(covered: pl.DataFrame) -> float:
    return float(covered["coverage"].to_numpy().mean())


def _zones(source: Source, experts: pl.DataFrame, roles: list[str]) -> Table:
    rows = []
    for zone in source.zones:
        inside = experts.filter(pl.col("layer").is_between(zone.first, zone.last))
        counts = [inside.filter(pl.col("role") == role).height for role in roles]
        rows.append((zone.name, f"{zone.first} to {zone.last}", *(f"{count:,}" for count in [*counts, inside.height])))
    return Table("Experts by zone", ("zone", "layers", *roles, "all"), tuple(rows))


def _best(grid: pl.DataFrame, experts: pl.DataFrame, target: str | None) -> Table:
    best = experts.sort("score", "layer", "expert", descending=[True, False, False], nulls_last=True).head(TOP)
    joined = best.join(grid.with_columns(pl.col("layer", "expert").cast(pl.Int64)), on=["layer", "expert"], how="left")
    counted = bool(best["count"].is_not_null().any())
    rows = tuple(
        (
            f"{row['layer']}",
            f"{row['expert']}",
            row["role"],
            row["zone"],
            "none" if row["score"] is None else f"{row['score']:.4f}",
            *((f"{row['count']:,}" if row["count"] is not None else "unknown",) if counted else ()),
            f"{row['background']:.3f}",
            *((f"{row['frequency']:.2%}",) if target else ()),
        )
        for row in joined.sort("score", "layer", "expert", descending=[True, False, False], nulls_last=True).iter_rows(
            named=True
        )
    )
    last = ("specificity", f"tokens of {target}") if target else ("overlap",)
    caption = f"The {len(rows)} experts with the highest score" if len(rows) == TOP else "The mask's experts by score"
    return Table(caption, ("layer", "expert", "role", "zone", "score", *(("count",) if counted else ()), *last), rows)

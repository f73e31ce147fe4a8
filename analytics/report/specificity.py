"""Section: which experts a language uses more than other languages do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from moetrace.analytics.database.quoting import literal
from moetrace.analytics.report.expert_charts import expert_axis, fold_colour, folded, layer_rows, on_grid
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.uncertainty import bootstrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.analytics.report.source import Source

MOST_ROWS = 150_000  # of languages x layers x experts on the page
MOST_LANGUAGES = 12


def specificity(source: Source, targets: Sequence[str]) -> Section:
    """Return the layer x expert map of one language at a time, for as many languages as a page holds well."""
    shown = _shown(source, targets)
    listed = ", ".join(literal(lang) for lang in shown)
    query = f"""select lang, layer, expert, frequency, specificity, score
from specificity
inner join activation using (run, lang, layer, expert)
where {source.this_run} and lang in ({listed})
order by lang, layer, expert"""
    section = Section(
        name="specificity",
        title="Specific experts",
        reading=(
            "Each cell is one expert. Orange experts are used more by the chosen language than by the average language "
            "of the run, purple ones less, those in between alike; colours end at an eighth and at eight times. Hover "
            "for how often the expert is used: a high specificity of a hardly used expert means little, which is why "
            "the score raises experts that are used often."
        ),
        formula=(
            "specificity = a / mean over languages of a, a the part of the language's tokens that are sent to the "
            "expert; score = specificity (1 + 10 a) (RISE, 2604.03592, eq. 8)"
        ),
        queries={"specificity": query},
    )
    if source.reason_without_comparison:
        return section.without_data(source.reason_without_comparison)
    frame = source.frame(query)
    left_out = (
        f"The page holds {len(shown)} of {len(source.languages)} languages: the mask's targets and the pivot where "
        "there are any, and those whose routing decisions go to the most specific experts. The query, with other "
        "names in its list, gives any other."
    )
    return section.with_data(
        {"specificity": frame},
        findings=_findings(source, frame, shown[0]),
        notes=(left_out,) if len(shown) < len(source.languages) else (),
        figures=(
            figure(
                "specificity",
                "Specificity of every expert for one language",
                _grid(source, shown),
                ("specificity", "zones"),
                renderer="canvas",
            ),
        ),
    )


def _shown(source: Source, targets: Sequence[str]) -> list[str]:
    """Return the languages on the page, the one to open with first."""
    ranked = source.frame(
        f"""select lang
from specificity
inner join activation using (run, lang, layer, expert)
where {source.this_run}
group by lang
order by sum(share * specificity) desc, lang"""
    )["lang"].to_list()
    cells = len(source.record.moe_layers) * source.record.num_experts
    room = max(3, min(MOST_LANGUAGES, MOST_ROWS // cells))
    known = [lang for lang in targets if lang in ranked]
    wanted = [*(known or ranked[:1]), source.pivot, *ranked]
    return [lang for lang in dict.fromkeys(wanted) if lang in ranked][:room]


def _grid(source: Source, shown: list[str]) -> alt.LayerChart:
    layers = source.record.moe_layers
    language = alt.param(
        name="language", value=shown[0], bind=alt.binding_select(options=sorted(shown), name="Language")
    )
    cells = (
        folded(alt.Chart(alt.NamedData("specificity")).transform_filter("datum.lang === language"))
        .mark_rect()
        .encode(
            x=expert_axis(source.record.num_experts),
            y=layer_rows(layers),
            color=fold_colour("used, against the average language"),
            tooltip=[
                alt.Tooltip("lang:N", title="language"),
                alt.Tooltip("layer:O"),
                alt.Tooltip("expert:O"),
                alt.Tooltip("frequency:Q", title="part of its tokens", format=".2%"),
                alt.Tooltip("specificity:Q", format=".3f"),
                alt.Tooltip("score:Q", format=".3f"),
            ],
        )
        .add_params(language)
    )
    return on_grid(len(layers), cells)


def _findings(source: Source, frame: pl.DataFrame, lang: str) -> tuple[str, ...]:
    best = frame.filter(pl.col("lang") == lang).sort("score", "layer", "expert", descending=[True, False, False])
    row = best.row(0, named=True)
    finding = (
        f"The expert with the highest score for {lang} is expert {row['expert']} of layer {row['layer']}: it takes "
        f"{row['frequency']:.0%} of the language's tokens, {row['specificity']:.1f}{_interval(source, row)} times the "
        "average language's part."
    )
    return (finding,)


def _interval(source: Source, row: Mapping[str, Any]) -> str:
    """Return the interval of an expert's specificity in brackets, or nothing where only some texts are drawn."""
    drawn = source.counts.drawn if source.counts else None
    if drawn is None or drawn.text_ids < drawn.of_text_ids or len(drawn.languages) < len(source.languages):
        return ""
    found = bootstrap(
        source.connection,
        "specificity",
        run=source.record.run,
        layers=[row["layer"]],
        replicates=source.replicates,
    ).row(by_predicate=(pl.col("lang") == row["lang"]) & (pl.col("expert") == row["expert"]), named=True)
    return f" ({found['lower']:.1f} to {found['upper']:.1f})"

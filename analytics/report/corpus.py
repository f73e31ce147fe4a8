"""Section: what the texts are made of, as far as it moves the numbers on this page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from moetrace.analytics.report.layer_charts import row_step
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, figure
from moetrace.analytics.report.style import FAINT, SERIES

if TYPE_CHECKING:
    from moetrace.analytics.report.source import Source

UNEVEN = (
    1.5  # times the tokens of the pivot's translation, above which a language weighs more wherever tokens are counted
)


def corpus(source: Source) -> Section:
    """Return how many tokens each language takes for the pivot's one, and what else its texts are."""
    query = f"""select
    lang,
    texts,
    tokens,
    tokens_per_text,
    fertility,
    generated_tokens,
    special_tokens,
    truncated_texts,
    duplicate_texts,
    shared_texts
from corpus_profile
where {source.this_run}
order by lang"""
    frame = source.frame(query)
    pivot = source.pivot or "the pivot language"
    known = frame.drop_nulls("fertility")
    section = Section(
        name="corpus",
        title="The texts",
        reading=(
            f"Fertility is how many tokens a language takes for a text of which {pivot} takes one token: where it is "
            "high the tokenizer cuts finely, and the language weighs more wherever tokens are counted. Generated and "
            "special tokens, cut texts and duplicates are routed like all others unless the trace, or a query, "
            "leaves them out."
        ),
        formula=(
            "fertility = tokens of the texts that a language shares with the pivot / the pivot's tokens of these texts"
        ),
        queries={"corpus": query},
        findings=_findings(frame),
    )
    if known.is_empty():
        return section.with_data({"corpus": frame}).without_data(
            "Fertility is not known: it needs a pivot language, and text ids that mean the same text in each language."
        )
    return section.with_data(
        {"corpus": frame},
        figures=(
            figure(
                "corpus",
                f"Tokens for one token of {pivot}, by language",
                _bars(known.sort("fertility", "lang", descending=[True, False])["lang"].to_list()),
                ("corpus",),
            ),
        ),
    )


def _bars(languages: list[str]) -> alt.LayerChart:
    step = row_step(len(languages))
    base = alt.Chart(alt.NamedData("corpus")).transform_filter("isValid(datum.fertility)")
    bars = base.mark_bar(color=SERIES[0]).encode(
        y=alt.Y(
            "lang:N",
            title=None,
            sort=languages,
            axis=alt.Axis(labelFontSize=min(11, step - 1), labelOverlap=True, ticks=False, domain=False),
            scale=alt.Scale(paddingInner=0.25),
        ),
        x=alt.X("fertility:Q", title="fertility"),
        tooltip=[
            alt.Tooltip("lang:N", title="language"),
            alt.Tooltip("fertility:Q", format=".2f"),
            alt.Tooltip("texts:Q", format=","),
            alt.Tooltip("tokens:Q", format=","),
            alt.Tooltip("generated_tokens:Q", title="generated tokens", format=","),
            alt.Tooltip("special_tokens:Q", title="special tokens", format=","),
            alt.Tooltip("duplicate_texts:Q", title="duplicate texts", format=","),
        ],
    )
    one = (
        alt.Chart(alt.InlineData(values=[{"one": 1}]))
        .mark_rule(color=FAINT, strokeDash=[4, 4])
        .encode(x=alt.X("one:Q"))
    )
    return alt.LayerChart(layer=[bars, one]).properties(width="container", height=step * len(languages))


def _findings(frame: pl.DataFrame) -> tuple[str, ...]:
    found = []
    fine = frame.filter(pl.col("fertility") > UNEVEN).sort("fertility", descending=True)["lang"].to_list()
    if fine:
        found.append(
            f"{listed(fine)} take{'s' if len(fine) == 1 else ''} more than {UNEVEN:g} tokens for the pivot's one."
        )
    if frame["texts"].null_count() == 0 and frame["shared_texts"].null_count() == 0:
        uneven = frame.filter(pl.col("texts") > pl.col("shared_texts"))["lang"].to_list()
        if uneven:
            found.append(
                f"Not every language has every text: {frame['shared_texts'][0]:,} are in all of them. Comparisons of "
                "these texts alone: `shared_texts := true`."
            )
    for column, said in (
        ("duplicate_texts", "Texts that are duplicates of others"),
        ("truncated_texts", "Texts that were cut to the model's window"),
        ("generated_tokens", "Tokens that the model generated"),
        ("special_tokens", "Special tokens"),
    ):
        some = frame.filter(pl.col(column) > 0).sort(column, "lang", descending=[True, False])
        if not some.is_empty():
            first = some.row(0, named=True)
            found.append(
                f"{said}: {some[column].sum():,}, in {some.height} of {frame.height} languages, most in "
                f"{first['lang']} ({first[column]:,})."
            )
    return tuple(found)

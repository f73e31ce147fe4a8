"""What lines of languages are made of, in Vega's expressions: which lines there are, their colours, labels, tooltips.

A line has a key: a language, or a group of languages. Parameters that the page sets and a figure on paper keeps:

- `chosen`: languages that have a line and a colour of their own; `picked`: whether a reader chose them
- `groupOf`: "l:" and a language -> its group; empty where each language has a line; `groups`: the groups, largest first
- `names`: "l:" and a language -> what it is called; `palette`, `other`: the colours
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from moetrace.analytics.report.style import MUTED, OTHERS, SERIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_BANDS = 4  # chosen languages up to which their intervals are drawn unasked
OWN = "indexof(chosen, datum.key) >= 0"
GROUPED = "length(groups) > 0"
PLAIN = f"{GROUPED} && length(chosen) === 0"  # groups have the colours where no language has
BANDED = f"{OWN} && (picked || length(chosen) <= {MOST_BANDS})"


def line_parameters(chosen: Sequence[str], groups: Mapping[str, str]) -> list[alt.Parameter]:
    """Return the parameters, with a figure's own choice of languages and their groups (none: a line a language)."""
    values: dict[str, Any] = {
        "chosen": list(chosen),
        "picked": False,
        "groupOf": {f"l:{lang}": group for lang, group in groups.items()},
        "groups": list(dict.fromkeys(groups.values())),
        "names": {},
        "palette": list(SERIES),
        "other": OTHERS,
    }
    return [alt.param(name=name, value=value) for name, value in values.items()]


def named(expression: str) -> str:
    """Return the expression of what a language, itself an expression, is called."""
    return f"(names['l:' + {expression}] || {expression})"


def line_colour(otherwise: str = "other") -> Any:
    """Return the colour of a key: of the chosen by their order; of groups where none is chosen."""
    count = len(SERIES)
    expression = (
        f"{OWN} ? palette[indexof(chosen, datum.key) % {count}]"
        f" : {PLAIN} ? palette[indexof(groups, datum.key) % {count}] : {otherwise}"
    )
    return alt.ColorValue(alt.ExprRef(expression))


def label_colour() -> Any:
    """Return the colour of a key's label: its line's, or that of text."""
    return line_colour(repr(MUTED))


def by_key(chart: alt.LayerChart, column: str, low: str | None, high: str | None) -> alt.LayerChart:
    """Return the chart with a row a key and layer.

    `value` is the mean of the key's languages, `least` and `most` the ends of their range, `members` how many there
    are, `low` and `high` the ends of the interval of a single language.
    """
    keys = (
        "!groupOf['l:' + datum.lang] ? [datum.lang]"
        " : indexof(chosen, datum.lang) >= 0 ? [groupOf['l:' + datum.lang], datum.lang]"
        " : [groupOf['l:' + datum.lang]]"
    )
    ends: dict[str, Any] = {name: f"mean({end})" for name, end in (("low", low), ("high", high)) if end}
    return (
        chart.transform_calculate(keys=keys)
        .transform_flatten(["keys"], as_=["key"])
        .transform_aggregate(
            value=f"mean({column})",
            least=f"min({column})",
            most=f"max({column})",
            members="distinct(lang)",
            groupby=["key", "layer"],
            **ends,
        )
    )


def spread_labels(chart: alt.Chart, last: int, step: float, ceiling: float, most: int) -> alt.Chart:
    """Return the chart with a row a labelled key: `label` is as high as its line ends, pushed apart to be read.

    last: the layer at which lines end; step: the least distance of two labels; ceiling: the highest that one stands;
    most: keys up to which those are labelled too that are not chosen and no group
    """
    counted = chart.transform_filter(f"datum.layer === {last} && isValid(datum.value)").transform_joinaggregate(
        keys="count()"
    )
    ranked = (
        counted.transform_filter(f"{OWN} || {GROUPED} || datum.keys <= {most}")
        .transform_joinaggregate(labelled="count()")
        .transform_window(rank="row_number()", sort=[_by("value"), _by("key")], frame=[None, 0])
    )
    # Upwards, each at least a step above the one below; then downwards from the ceiling.
    pushed = ranked.transform_calculate(above=f"datum.value - datum.rank * {step}").transform_window(
        highest="max(above)", sort=[_by("rank")], frame=[None, 0]
    )
    return (
        pushed.transform_calculate(below=f"min(datum.highest, {ceiling} - datum.labelled * {step})")
        .transform_window(lowest="min(below)", sort=[_by("rank")], frame=[0, None])
        .transform_calculate(label=f"datum.lowest + datum.rank * {step}")
    )


def line_tooltip(title: str, number: str) -> alt.TooltipValue:
    """Return what hovering near a line says: whose it is, the layer, the value with its interval or its range.

    An expression, because Vega-Lite 6.4 loses text columns in the tooltips of marks that are found by nearness.
    """
    row = "(datum.datum || datum)"

    def number_of(column: str) -> str:
        return f"format({row}.{column}, {number!r})"

    interval = f"(isValid({row}.low) ? ' (' + {number_of('low')} + ' to ' + {number_of('high')} + ')' : '')"
    single = (
        f"{{'language': {named(f'{row}.key')}, 'layer': {row}.layer, {title!r}: {number_of('value')} + {interval}}}"
    )
    group = (
        f"{{'languages': {row}.key, 'layer': {row}.layer, 'mean': {number_of('value')}, "
        f"'range': {number_of('least')} + ' to ' + {number_of('most')}}}"
    )
    return alt.TooltipValue(alt.ExprRef(f"indexof(groups, {row}.key) >= 0 ? {group} : {single}"))


def _by(field: str) -> alt.SortField:
    return alt.SortField(field)

"""`moetrace export`: the experts to train or to steer, as a file that a trainer reads. One command a strategy."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli import completion
from moetrace.cli.convert import FORMAT, MASK, convert, write_mask
from moetrace.cli.explanation import explanation
from moetrace.cli.groups import InOrder
from moetrace.cli.options import FINITE, RUN, STORE, FiniteRange, output
from moetrace.cli.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import duckdb

    from moetrace.analytics.selection.selection import Selection

EXPLAIN = click.option(
    "--explain", is_flag=True, help="Also print each expert's scores, why it was chosen, and what just missed."
)
REFERENCE = click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="LANG",
    help="Language to compare with; may be repeated.  [default: all of the run]",
)
MIN_COUNT = click.option(
    "--min-count",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    metavar="N",
    help="Routing decisions that an expert needs to be taken as the language's own; 0: any.",
)
OUTPUT = output("Write the mask here.  [default: standard output]")


def _target(help_text: str, *, required: bool = False) -> Callable[..., Any]:
    return click.option(
        "--target",
        "targets",
        multiple=True,
        required=required,
        metavar="LANG",
        help=f"{help_text}; may be repeated.",
        shell_complete=completion.languages,
    )


@click.group(cls=InOrder, short_help="Export the experts to train for a language.")
def export() -> None:
    """Select experts from a run of a store and write them as a mask, by one of these strategies.

    The same call gives the same bytes on every machine: ties go to the lower layer, then the lower expert.

    \b
    moetrace export rise my-store --target swh_Latn --budget 32 -o mask.json
    moetrace export rise my-store --target swh_Latn --budget 32 --explain -o mask.json
    moetrace export convert mask.json --format axolotl -o experts.yaml
    """  # noqa: D301  click wants the escape itself


def strategy(name: str, short_help: str, *options: Callable[..., Any]) -> Callable[..., Any]:
    """Make `moetrace export NAME` of a function (connection, run, **options) -> Selection."""

    def command_of(select: Callable[..., Selection]) -> click.Command:
        @wraps(select)
        def command(
            store: str, run: str | None, file_format: str, output: Path | None, explain: bool, **options: Any
        ) -> None:
            from moetrace.analytics.database.connection import connect
            from moetrace.analytics.masks.mask import build_mask
            from moetrace.store.read.reader import Store

            opened = Store(store)
            record = opened.run(run)
            connection = connect(opened)
            selection = select(connection, record.run, **options)
            # The trace's own time, not the clock's: the same call gives the same bytes.
            mask = build_mask(selection, record, opened.traced_at(record.run), opened.format.version)
            write_mask(mask, file_format, output)
            if explain:
                click.echo(explanation(selection), err=output is None)
            for note in () if explain else selection.notes:
                click.echo(printable(note), err=True)

        found: Any = command
        for option in (EXPLAIN, OUTPUT, FORMAT, *reversed(options), RUN, STORE):
            found = option(found)
        return export.command(name, short_help=short_help)(found)

    return command_of


@strategy(
    "rise",
    "Specific experts of shallow and deep layers, shared ones of the middle.",
    _target("Language to select for", required=True),
    REFERENCE,
    click.option(
        "--budget", type=int, default=128, show_default=True, metavar="K", help="Experts over the whole model."
    ),
    click.option("--alpha", type=FINITE, default=10.0, show_default=True, help="Weight of the activation in a score."),
    click.option("--shallow", type=FINITE, default=0.35, show_default=True, help="The shallow zone's share of K."),
    click.option(
        "--middle", type=FINITE, default=0.25, show_default=True, help="The middle zone's share; the rest is deep."
    ),
    MIN_COUNT,
    click.option(
        "--shrinkage",
        type=FiniteRange(min=0),
        default=0.0,
        show_default=True,
        metavar="LAMBDA",
        help="Decisions at the mean rate that are added to what was seen of an expert.",
    ),
)
def rise(connection: duckdb.DuckDBPyConnection, run: str, references: tuple[str, ...], **options: Any) -> Selection:
    """Select K experts by RISE (arXiv 2604.03592, eq. 8 and algorithm 1).

    With a = tokens routed to an expert / tokens: the shallow and the deep zone give the experts with the highest
    S (1 + alpha a), S = a of the target / mean a of the languages; the middle zone those with the highest
    O (1 + alpha mean a), O = 1 / (1 + standard deviation of a / mean a). The zones are the first 37.5%, the next 25%
    and the last 37.5% of the MoE layers. What a zone cannot hold goes to the zone with most room.

    Ours: an expert with fewer than N routing decisions of the target is not specific to it (0: RISE's own behaviour),
    and S = (count + lambda) / (tokens mean a + lambda) draws what little was seen towards 1.

    \b
    moetrace export rise my-store --target swh_Latn --budget 32 -o mask.json
    moetrace export rise my-store --target swh_Latn --min-count 0 --shrinkage 100 -o mask.json
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.selection import rise as select

    return select(connection, run, reference=references, **options)


@strategy(
    "gap",
    "Experts of the final layers that the language uses more than any other.",
    _target("Language to select for", required=True),
    REFERENCE,
    click.option("--layers", type=int, default=2, show_default=True, metavar="N", help="How many final MoE layers."),
    click.option("--alpha", type=FINITE, default=0.01, show_default=True, help="The least gap."),
    click.option("--shared", type=int, metavar="K", help="Shared experts of each layer.  [default: 5, or all it has]"),
    click.option("--parent", metavar="LANG", help="Borrow this language's set: for a low-resource target."),
    MIN_COUNT,
)
def gap(connection: duckdb.DuckDBPyConnection, run: str, references: tuple[str, ...], **options: Any) -> Selection:
    """Select by activation gap in the final MoE layers (arXiv 2605.29714).

    With p = an expert's share of the layer's routing decisions: the experts that the target uses most, with
    gap = largest p - second largest p over the languages >= alpha; and in each layer K shared ones beside them, those
    with the highest mean p over the languages. With a parent, the target itself is none of the languages: it would take
    from its parent what the two have in common. Ours: an expert with fewer than N routing decisions of the language
    whose it is, the target or its parent, is not taken; shared ones are not held to it.

    \b
    moetrace export gap my-store --target swh_Latn --layers 2 -o mask.json
    moetrace export gap my-store --target gsw_Latn --parent deu_Latn --reference eng_Latn -o mask.json
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.selection import gap as select

    return select(connection, run, reference=references, **options)


@strategy(
    "top-p",
    "Of each layer, the experts that do a share p of its work (ESFT).",
    _target("Language to select for, several pooled; none: all of the run"),
    click.option("--score", type=click.Choice(["token", "gate"]), default="token", show_default=True, help="Of what."),
    click.option("--p", type=FINITE, default=0.2, show_default=True, help="The share, above 0 and at most 1."),
)
def top_p(connection: duckdb.DuckDBPyConnection, run: str, **options: Any) -> Selection:
    """Select, in each MoE layer, experts until their scores sum to p (ESFT, arXiv 2407.01906).

    Experts are taken by descending score, normalised over the layer and rounded to 4 decimals: the expert's share of
    the routing decisions (token), or of the applied gate weights (gate).

    \b
    moetrace export top-p my-store --target swh_Latn --p 0.2 --format esft -o expert_config.json
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.selection import top_p as select

    return select(connection, run, **options)


@strategy(
    "top-k",
    "The most used experts, of the model or of each layer.",
    _target("Language to select for, several pooled; none: all of the run"),
    click.option("--budget", type=int, metavar="K", help="Experts over the whole model.  [default: 128]"),
    click.option("--per-layer", type=int, metavar="K", help="Experts of each layer instead."),
    MIN_COUNT,
)
def top_k(connection: duckdb.DuckDBPyConnection, run: str, **options: Any) -> Selection:
    """Select the K experts with the highest activation frequency a = count / T (a of RISE, arXiv 2604.03592).

    Only of experts with at least N routing decisions of the target, of all targets together where there are several.

    \b
    moetrace export top-k my-store --target swh_Latn --per-layer 4 -o mask.json
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.selection import top_k as select

    return select(connection, run, **options)


@strategy(
    "task",
    "Middle-layer experts that a task uses more than general text.",
    click.option(
        "--target",
        "targets",
        multiple=True,
        metavar="LANG",
        help="Only this language.  [default: all]",
        shell_complete=completion.languages,
    ),
    click.option(
        "--against",
        required=True,
        metavar="RUN",
        help="Run of general texts, in the same store.",
        shell_complete=completion.runs,
    ),
    click.option("--tau", type=FINITE, default=0.0, show_default=True, help="What a score must be above."),
    click.option("--per-layer", type=int, metavar="K", help="At most K of each layer, as many as can be promoted."),
    click.option(
        "--zones",
        type=click.Choice(["fixed", "auto"]),
        default="fixed",
        show_default=True,
        help="Where the middle is: a fixed share of the depth, or where the languages' divergence changes.",
    ),
)
def task(connection: duckdb.DuckDBPyConnection, run: str, **options: Any) -> Selection:
    """Select the middle-layer task experts of --run, the run of a task's texts (arXiv 2510.04694, eq. 3).

    score = mean over the task's texts of (tokens routed to the expert / tokens) - the same over the general texts;
    selected where it is above tau, in the middle zone: the MoE layers from 37.5% to 62.5% of the depth, or, with
    --zones auto, the middle one of `zones_auto` of the general run. The default of tau is ours.

    \b
    moetrace export task my-store --run maths --against flores -o mask.json
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.selection import task as select

    return select(connection, run, **options)


@strategy(
    "random",
    "A control: as many experts of each layer as a mask has, drawn.",
    click.option("--like", type=MASK, required=True, metavar="MASK", help="The mask that this is a control for."),
    click.option(
        "--match",
        type=click.Choice(["count", "load"]),
        default="count",
        show_default=True,
        help="What each layer has as the mask has it: the number of experts, or their load, too.",
    ),
    click.option(
        "--exclude",
        "excluded",
        type=MASK,
        multiple=True,
        metavar="MASK",
        help="Draw none of this mask's experts; may be repeated, and be the same as --like.",
    ),
    click.option(
        "--slack",
        type=FiniteRange(0, 1),
        default=0.05,
        show_default=True,
        metavar="S",
        help="Of load: how much further than the nearest a draw may be, as a part of the mask's load. 0: no further.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Another seed, another draw."),
)
def random(
    connection: duckdb.DuckDBPyConnection, run: str, like: Path, excluded: tuple[Path, ...], **options: Any
) -> Selection:
    """Draw, in each layer, as many experts as MASK has there, in the same roles: a control.

    By count, every expert of a layer is as likely as any other. By load, those drawn meet together as many of the
    routing decisions of the mask's target as the mask's do, or as nearly as many as the layer allows. The load asked
    for and the one got are told and stand in the mask. A seed means the same draw on every machine.

    \b
    moetrace export random my-store --like mask.json --seed 1 -o control.json
    moetrace export random my-store --like mask.json --match load --exclude mask.json -o control.json
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.selection import random as select
    from moetrace.store.mask import read_mask

    exclude = {str(path): read_mask(path) for path in excluded}
    return select(connection, run, like=read_mask(like), exclude=exclude, where=str(like), **options)


@strategy(
    "sql",
    "The experts that a query returns.",
    _target("Language the experts are for, to be written down"),
    click.option("--query", metavar="SQL", help="Returns layer, expert[, score]."),
    click.option("--query-file", type=MASK, metavar="FILE", help="The query, in a file."),
)
def sql(
    connection: duckdb.DuckDBPyConnection,
    run: str,
    targets: tuple[str, ...],
    query: str | None,
    query_file: Path | None,
) -> Selection:
    """Select the experts that a query over the store's views returns: layer, expert and, if it likes, score.

    `moetrace views` lists what can be asked. Each expert once; layers and experts must be the run's.

    \b
    moetrace export sql my-store --query "
      select layer, expert, max(score) as score from specificity
      where lang in ('swh_Latn', 'hau_Latn') group by all having max(score) > 3"
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.selection import sql as select
    from moetrace.analytics.selection.selection import SelectionError

    if (query is None) == (query_file is None):
        raise click.UsageError("name one of --query and --query-file")
    if query_file is not None:
        try:
            query = query_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SelectionError(f"{query_file}: cannot be read as a query ({reason})") from error
    return select(connection, run, targets, query=query or "")


export.add_command(convert)

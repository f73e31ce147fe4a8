"""`moetrace sql`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moetrace.cli.options import STORE, output
from moetrace.cli.table import aligned
from moetrace.cli.terminal import one_line, printable, printable_json

if TYPE_CHECKING:
    import duckdb

FORMATS = ("table", "csv", "json", "parquet")
MOST_ROWS = 10_000  # of a table on the terminal; files get every row


@click.command(short_help="Query a store: one query, or a prompt.")
@STORE
@click.argument("query", required=False)
@click.option("--format", "file_format", type=click.Choice(FORMATS), help="[default: by the file's name, else table]")
@output("Write the result here.")
@click.option(
    "--database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every view into this DuckDB file, for other clients: those read the store unchecked.",
)
@click.option(
    "--scores",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .csv or .parquet with columns lang and score, for score_correlation.",
)
def sql(
    store: str,
    query: str | None,
    file_format: str | None,
    output: Path | None,
    database: Path | None,
    scores: Path | None,
) -> None:
    """Run QUERY over the views of STORE and print the rows; without QUERY, open a prompt.

    `moetrace views` lists what can be asked. Queries read the store's committed shards; they can change neither the
    store nor any other file. What a file format cannot hold is text in it: intervals, unions, in CSV also lists.

    \b
    moetrace sql my-store "select * from jaccard_by_layer"
    moetrace sql my-store "select * from activation" -o activation.parquet
    moetrace sql my-store --scores belebele.csv "from score_correlation"
    moetrace sql my-store --database my-store.duckdb
    """  # noqa: D301  click wants the escape itself
    from moetrace.analytics.database.connection import connect
    from moetrace.analytics.database.query import missing_inputs, run_query

    if database is not None:
        from moetrace.analytics.database.file import write_database

        if query is not None or output is not None:
            raise click.UsageError("--database takes neither a query nor -o")
        click.echo(printable(write_database(store, database)))
        return
    connection = connect(store)
    if scores is not None:
        from moetrace.analytics.metrics.scores import read_scores, use_scores

        use_scores(connection, read_scores(scores))
    if query is None and sys.stdin.isatty():
        _prompt(connection)
        return
    wanted = file_format or _format_of(output)
    if wanted == "parquet" and output is None:
        raise click.UsageError("--format parquet writes a file; name it with -o")
    query = query if query is not None else sys.stdin.read()
    results = list(run_query(connection, query))
    for sentence in missing_inputs(connection, query):
        click.echo(f"note: {printable(sentence)}", err=True)
    if output is not None and len(results) != 1:
        raise click.UsageError(f"-o takes one result, the query has {len(results)}")
    for relation in results:
        _write(relation, wanted, output)


def _format_of(output: Path | None) -> str:
    suffix = output.suffix.removeprefix(".") if output else ""
    return suffix if suffix in FORMATS else "table" if output is None else "csv"


def _write(relation: duckdb.DuckDBPyRelation, file_format: str, output: Path | None) -> None:
    from moetrace.analytics.database.results import file_content, frame_of
    from moetrace.store.output import write_bytes

    if file_format == "table":
        content = f"{_as_table(relation)}\n".encode()
    else:
        frame, renamed = frame_of(relation, file_format)
        for position, name in renamed.items():
            click.echo(f"note: column {position + 1} is '{printable(name)}': another has its name", err=True)
        content = file_content(frame, file_format)
    if output is None:
        click.echo(printable_json(content.decode()) if file_format == "json" else content, nl=False)
        return
    write_bytes(output, content)


def _as_table(relation: duckdb.DuckDBPyRelation) -> str:
    """Return the first rows as aligned text."""
    from moetrace.analytics.database.results import table_rows

    rows = table_rows(relation, MOST_ROWS + 1)
    text = aligned(relation.columns, rows[:MOST_ROWS])
    return text if len(rows) <= MOST_ROWS else f"{text}\n(the first {MOST_ROWS:,} rows; -o FILE writes all of them)"


def _prompt(connection: duckdb.DuckDBPyConnection) -> None:
    """Read statements until ctrl-d; a statement ends with `;` or an empty line. History is kept between sessions."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    from moetrace.analytics.database.query import completions, missing_inputs, run_query
    from moetrace.store.errors import MoetraceError

    history = Path(click.get_app_dir("moetrace")) / "sql-history"
    history.parent.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        lexer=PygmentsLexer(SqlLexer),
        completer=WordCompleter(completions(connection), ignore_case=True),
    )
    click.echo(
        "SQL over the store; end a statement with ;  (`moetrace views` lists the views, ctrl-d leaves)", err=True
    )
    pending = ""
    while True:
        try:
            line = session.prompt("moetrace> " if not pending else "     ...> ")
        except KeyboardInterrupt:
            pending = ""
            continue
        except EOFError:
            return
        pending += line + "\n"
        if line.strip() and not line.rstrip().endswith(";"):
            continue
        statement, pending = pending.strip(), ""
        if not statement:
            continue
        try:
            for relation in run_query(connection, statement):
                click.echo(_as_table(relation))
            for sentence in missing_inputs(connection, statement):
                click.echo(f"note: {printable(sentence)}", err=True)
        except MoetraceError as error:
            click.echo(one_line(error), err=True)

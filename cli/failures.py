"""What the program says when something is raised: one line, and the traceback only for who asks for it."""

from __future__ import annotations

import io
import logging
import os
import traceback

import click

from moetrace.cli.terminal import one_line, printable

DEBUG = "MOETRACE_DEBUG"

# Whose errors are about files, queries, settings and networks, that is, about what a person gave. By name: none of
# these packages is imported only to ask.
OTHERS = {
    *("_duckdb", "duckdb", "polars", "pyarrow", "datasets", "huggingface_hub", "safetensors", "safetensors_rust"),
    *("jinja2", "aiohttp", "botocore", "httpx", "requests", "urllib3"),
}
IN_WORDS = {MemoryError: "not enough memory", RecursionError: "nested too deeply to be read"}


def show_failure(error: BaseException) -> None:
    """Print an error as one line on stderr; with MOETRACE_DEBUG=1, or -v, the traceback before it."""
    if _debugging():
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo(f"moetrace: {one_line(_described(error))}", err=True)


def show_usage(error: click.ClickException) -> None:
    """Print what is wrong with what was typed, as click does, but nothing that a terminal would obey."""
    shown = io.StringIO()
    error.show(file=shown)
    for line in shown.getvalue().rstrip("\n").split("\n"):
        click.echo(printable(line), err=True)


def _described(error: BaseException) -> str:
    from moetrace.store.errors import MoetraceError  # here, so that --help need not wait for Arrow

    if isinstance(error, MoetraceError):
        return str(error)
    words = next((words for kind, words in IN_WORDS.items() if isinstance(error, kind)), None)
    if words:
        return f"{words} ({error})" if str(error) else words
    name = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    if isinstance(error, OSError | UnicodeError | OverflowError) or _is_of_others(error):
        return str(error) or name
    return (
        f"{name}: {error}: this is a bug of moetrace; run the command again with {DEBUG}=1 in the environment and "
        "report what it prints"
    )


def _is_of_others(error: BaseException) -> bool:
    """Tell whether an error is of a class that a library made for its own errors."""
    return any(kind.__module__.partition(".")[0] in OTHERS for kind in type(error).__mro__)


def _debugging() -> bool:
    asked = os.environ.get(DEBUG, "") not in {"", "0"}
    return asked or logging.getLogger("moetrace").isEnabledFor(logging.DEBUG)

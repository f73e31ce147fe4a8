"""What a shell is offered for a word that is begun: runs and languages of the store on the line, names of views.

Click writes the shell's part; docs/install.md has the line for each shell. A store that cannot be read offers nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moetrace.store.errors import MoetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import click

    from moetrace.store.format.records import RunRecord


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001  click's interface
    """Return the runs of the store."""
    return _beginning(incomplete, _records(ctx))


def languages(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the languages of the run that the line names, or of all runs of the store."""
    asked = ctx.params.get("run")
    known = (
        lang for run, record in _records(ctx).items() if asked in {None, run} for lang in record.corpus["languages"]
    )
    return _beginning(incomplete, sorted(set(known)))


def views(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the names of the views."""
    from moetrace.analytics.database.documentation import views as documented

    return _beginning(incomplete, documented())


def plots(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the names of the plots."""
    from moetrace.analytics.plots import SECTIONS

    return _beginning(incomplete, SECTIONS)


def _beginning(with_: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(with_)]


def _records(ctx: click.Context) -> Mapping[str, RunRecord]:
    from moetrace.store.read.reader import Store

    # Where the option under the cursor has no value yet, click gives up before it knows which argument is which.
    store = ctx.params.get("store") or next(iter(ctx.args), None)
    try:
        return Store(store).runs if store else {}
    except MoetraceError:
        return {}

"""Every command that reads a store, and the doors of Python, each tried on each hostile store."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hostile.case import Case

ALL_TABLES = """
select 'routes' as name, count(*), sum(expert), sum(token)::bigint from routes
union all select 'tokens', count(*), sum(position), sum(token_id)::bigint from tokens
union all select 'sequences', count(*), sum(seq), sum(tokens)::bigint from sequences
union all select 'profiles', count(*), sum(expert), sum(seq)::bigint from profiles
union all select 'usage', count(*), sum(expert), sum(count)::bigint from usage
order by all
"""
ROLLUPS = "select run, layer, lang_a, lang_b, n, jaccard from jaccard(n := 4) order by all"
EXPERTS = (
    "select layer, expert from activation where run = 'run' and lang = 'deu_Latn' order by activation desc limit 3"
)


@dataclass(frozen=True)
class Command:
    """A command: its arguments, or a function of Python that does the same.

    - reads: "records", "rollups" or "tables", the most that it needs of a store; "" where damage need not hinder it
    - changes: it may write into the store; each gets a store of its own
    - keeps: whatever it does, every file is still somewhere in the store
    """

    name: str
    arguments: tuple[str, ...] = ()
    call: Callable[[str], object] | None = None
    reads: str = "rollups"
    changes: bool = False
    keeps: bool = True

    def run(self, case: Case) -> int:
        """Run it in this process, in the folder that it may write to; return the exit code."""
        if self.call is not None:
            return _called(self.call, str(case.store))
        from moetrace.cli.main import run

        known = {"STORE": str(case.store), "MASK": str(case.folder / "mask.json"), "OUT": "."}
        return run([known.get(each, each) for each in self.arguments])


def _called(call: Callable[[str], object], store: str) -> int:
    import duckdb

    from moetrace.cli.terminal import one_line
    from moetrace.store.errors import MoetraceError

    try:
        call(store)
    except (MoetraceError, duckdb.Error) as error:
        if not isinstance(error, MoetraceError) and "Error: " not in str(error):
            raise
        sys.stderr.write(f"moetrace: {one_line(error)}\n")
        return 1
    return 0


def _connect(store: str) -> None:
    import moetrace

    with moetrace.connect(store) as connection:
        connection.sql(ROLLUPS).fetchall()


def _store(store: str) -> None:
    import moetrace

    opened = moetrace.Store(store)
    sys.stdout.write(f"{sorted(opened.runs)} {len(opened.commits)}\n")


def _export(name: str, *arguments: str) -> Command:
    return Command(f"export-{name}", ("export", name, "STORE", "--run", "run", *arguments, "-o", "mask.json"))


COMMANDS = (
    Command("ls", ("ls", "STORE"), reads="records"),
    Command("ls-json", ("ls", "STORE", "--json"), reads="records"),
    Command("ls-failed", ("ls", "STORE", "--failed"), reads=""),
    Command("verify", ("verify", "STORE"), reads="tables"),
    Command("verify-quick", ("verify", "STORE", "--quick"), reads="records"),
    Command("verify-json", ("verify", "STORE", "--json"), reads="tables"),
    Command("verify-dry", ("verify", "STORE", "--repair", "--dry-run"), reads="tables"),
    Command("verify-repair", ("verify", "STORE", "--repair"), reads="tables", changes=True),
    Command("compact", ("compact", "STORE"), changes=True, keeps=False),
    Command("sql", ("sql", "STORE", ROLLUPS)),
    Command("sql-tables", ("sql", "STORE", ALL_TABLES, "-o", "tables.csv"), reads="tables"),
    Command("sql-texts", ("sql", "STORE", "select run, lang, text_id from sequences order by all"), reads="tables"),
    Command("sql-runs", ("sql", "STORE", "from runs", "--format", "json")),
    Command("database", ("sql", "STORE", "--database", "store.duckdb")),
    Command("views", ("views",), reads=""),
    Command("report", ("report", "STORE", "--run", "run", "-o", "report.html")),
    _export("rise", "--target", "deu_Latn", "--budget", "4", "--min-count", "0", "--explain"),
    _export("gap", "--target", "deu_Latn", "--min-count", "0"),
    _export("top-p", "--target", "deu_Latn"),
    _export("top-k", "--per-layer", "2", "--min-count", "0"),
    _export("task", "--against", "general"),
    _export("random", "--like", "MASK", "--match", "load"),
    _export("sql", "--query", EXPERTS),
    Command("python-connect", call=_connect),
    Command("python-store", call=_store, reads="records"),
    Command("upgrade", ("upgrade", "STORE"), reads="", changes=True),
    Command("rm", ("rm", "STORE", "--run", "run", "--yes"), reads="", changes=True),
    Command("rm-lang", ("rm", "STORE", "--run", "run", "--lang", "deu_Latn", "--yes"), reads="", changes=True),
    Command("rm-force", ("rm", "STORE", "--run", "run", "--yes", "--force"), reads="", changes=True, keeps=False),
    Command("rm-staging", ("rm", "STORE", "--staging"), reads="", changes=True, keeps=False),
)

MASK_COMMANDS = (
    Command("report-mask", ("report", "STORE", "--run", "run", "--mask", "MASK", "-o", "report.html")),
    *(
        Command(f"convert-{each}", ("export", "convert", "MASK", "--format", each, "-o", "converted"))
        for each in ("moetrace", "rise", "esft", "target-experts", "axolotl", "easysteer")
    ),
    Command("random", ("export", "random", "STORE", "--run", "run", "--like", "MASK", "-o", "drawn.json")),
    Command("train", ("train", "MASK", "--model", "bundled", "--corpus", "bundled", "-o", "trained")),
)

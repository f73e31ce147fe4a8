"""Section: how the trace and this page were made, for whoever wants to make them again or to doubt them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.documentation import views
from moetrace.analytics.report.section import Section, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.analytics.report.source import Source

QUERY = "select * exclude (special_token_ids) from runs where {}"
UNKNOWN = "unknown"
MOST_LETTERS = 300


def made(source: Source, shown: Sequence[Section], facts: Mapping[str, str]) -> Section:
    """Return the run's record, versions, what was checked, and the definitions of all that `shown` draws.

    facts: what the page says of itself, name -> value
    """
    record = source.record
    model, settings, provenance = record.model, record.settings, record.provenance
    queries = " ".join(query for section in shown for query in section.queries.values())
    words = _words(queries)
    used = [view for view in views().values() if view.stage == "3_metrics" and view.name in words]
    rows = (
        *facts.items(),
        ("model revision", _plain(model.get("revision"))),
        ("config digest", _plain(model.get("config_sha256"))),
        ("tokenizer digest", _plain(model.get("tokenizer_sha256"))),
        ("corpus digest", _plain(record.corpus.get("sha256"))),
        ("traced by moetrace", _plain(provenance.get("moetrace"))),
        ("Python, machine", f"{_plain(provenance.get('python'))}, {_plain(provenance.get('machine'))}"),
        *((name, _plain(value)) for name, value in (settings.get("versions") or {}).items()),
        *((f"engine: {name}", _plain(value)) for name, value in (settings.get("engine") or {}).items()),
        *(
            (name.replace("_", " "), _plain(value))
            for name, value in settings.items()
            if name not in {"versions", "engine"} and value not in (None, {}, [])
        ),
    )
    return Section(
        name="made",
        title="How it was made",
        reading=(
            "What identifies the run, as its record in the store says it, and how each number on this page is "
            "defined. Every block of the store's files was held against its checksum when it was read, and the "
            "roll-ups against the shape of the model; moetrace verify STORE checks every file and what is in it."
        ),
        formula="The run's record is the file runs/RUN.json of the store; the view `runs` has it as columns.",
        queries={"runs": QUERY.format(source.this_run)},
        tables=(
            Table("The run", ("", "as its record says"), rows, prose=True),
            Table(
                "Definitions of the views that this page asks",
                ("view", "a row", "formula", "source"),
                tuple((view.name, view.row, view.formula, view.source) for view in used),
                prose=True,
            ),
        ),
    )


def _words(text: str) -> set[str]:
    return set("".join(letter if letter.isalnum() or letter == "_" else " " for letter in text).split())


def _plain(value: Any) -> str:
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = ", ".join(f"{name} {_plain(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        value = ", ".join(_plain(item) for item in value) or "none"
    text = str(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} …"

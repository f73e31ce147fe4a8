"""Section: how the traces and this page were made, for whoever wants to make them again or to doubt them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from moetrace.analytics.database.documentation import views
from moetrace.analytics.report.names import listed
from moetrace.analytics.report.section import Section, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moetrace.analytics.report.source import Source
    from moetrace.store.format.records import RunRecord

QUERY = "select * exclude (special_token_ids) from runs where {}"
UNKNOWN = "unknown"
MOST_LETTERS = 300


def made(runs: Mapping[str, Source], shown: Sequence[Section], page: Mapping[str, str]) -> Section:
    """Return the runs' records, versions, what was checked, and the definitions of all that `shown` draws.

    runs: what a run is called -> the run, one or two; page: what the page says of itself, name -> value
    """
    queries = "\n".join(query for section in shown for query in section.queries.values())
    asked_of = set(re.findall(r"\b(?:from|join)\s+(\w+)", queries))
    used = [view for view in views().values() if view.stage == "3_metrics" and view.name in asked_of]
    facts = [record_facts(source.record) for source in runs.values()]
    rows = [*((name, *[value] * len(runs)) for name, value in page.items()), *beside(facts)]
    one = len(runs) == 1
    asked = [(name, QUERY.format(source.this_run)) for name, source in runs.items()]
    return Section(
        name="made",
        title="How it was made",
        reading=(
            f"What identifies {'the run' if one else 'each run'}, as its record in the store says it, and how each "
            "number on this page is defined. Every block of the store's files was held against its checksum when it "
            "was read, and the roll-ups against the shape of the model; moetrace verify STORE checks every file and "
            "what is in it."
        ),
        formula="The run's record is the file runs/RUN.json of the store; the view `runs` has it as columns.",
        queries={"runs": asked[0][1] if one else "\n\n".join(f"-- {name}\n{query};" for name, query in asked)},
        findings=() if one else (f"The records differ in {differences(facts)}.",),
        tables=(
            Table("The run", ("", "as its record says"), tuple(rows), prose=True)
            if one
            else Table("The runs, as their records say", ("", *runs), tuple(rows), prose=True),
            Table(
                "Definitions of the views that this page asks",
                ("view", "a row", "formula", "source"),
                tuple((view.name, view.row, view.formula, view.source) for view in used),
                prose=True,
            ),
        ),
    )


def record_facts(record: RunRecord) -> dict[str, str]:
    """Return what a run's record says of its making: name -> value.

    Versions and settings may have any names; none takes the place of a fact that the record itself names.
    """
    model, settings, provenance = record.model, record.settings, record.provenance
    own = {
        "run digest": record.sha256(),
        "model": _plain(model.get("id")),
        "model revision": _plain(model.get("revision")),
        "data type": _plain(model.get("dtype")),
        "MoE layers": str(len(record.moe_layers)),
        "experts": f"{record.num_experts}, top {record.top_k}",
        "config digest": _plain(model.get("config_sha256")),
        "tokenizer digest": _plain(model.get("tokenizer_sha256")),
        "corpus digest": _plain(record.corpus.get("sha256")),
        "traced by moetrace": _plain(provenance.get("moetrace")),
        "Python, machine": f"{_plain(provenance.get('python'))}, {_plain(provenance.get('machine'))}",
    }
    more = (
        *(settings.get("versions") or {}).items(),
        *((f"engine: {name}", value) for name, value in (settings.get("engine") or {}).items()),
        *(
            (name.replace("_", " "), value)
            for name, value in settings.items()
            if name not in {"versions", "engine"} and value not in (None, {}, [])
        ),
    )
    return own | {name: _plain(value) for name, value in more if name not in own}


def beside(facts: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """Return the facts of several records as rows of a name and what each says of it."""
    return [(name, *(each.get(name, UNKNOWN) for each in facts)) for name in dict.fromkeys(n for f in facts for n in f)]


def differences(facts: Sequence[Mapping[str, str]]) -> str:
    """Return in words what records say differently, but for their digests, which always do."""
    found = [name for name, *values in beside(facts) if len(set(values)) > 1 and name != "run digest"]
    return listed(found) or "nothing but their names"


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

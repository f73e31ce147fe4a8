"""Making run records: which parts one has, which keys stand in them, and in which order.

`records.RunRecord` says what the parts mean. Who makes a run (a trace, a recording, an import) says what is known; a
key that nobody knows of such a run is left out, a value that is not known is null.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from moetrace.store.format.records import RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODEL = (
    "id",
    "revision",
    "config_sha256",
    "family",
    "moe_layers",
    "num_layers",
    "num_experts",
    "top_k",
    "parameters_per_expert",
    "parameters",
    "dtype",
    "tokenizer_sha256",
    "special_token_ids",
)
# What a person chose stands first: a refused run names the first fields that differ.
CORPUS = ("selection", "sha256", "languages", "pivot", "parallel", "texts", "tokens", "shards", "truncated")


def make_run_record(
    run: str,
    *,
    model: Mapping[str, Any],
    routing: Mapping[str, Any],
    corpus: Mapping[str, Any],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> RunRecord:
    """Return the record of a run; `provenance` comes of `made_here` or `made_elsewhere`.

    Raises ValueError for a key of `model` or `corpus` that no record has.
    """
    return RunRecord(
        run=run,
        model=_in_order("model", model, MODEL),
        routing=dict(routing),
        corpus=_in_order("corpus", corpus, CORPUS),
        settings=dict(settings),
        provenance=dict(provenance),
    )


def with_engine_facts(
    record: RunRecord, model: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> RunRecord:
    """Return the record with what only a running engine knows, such as the MoE layers and the dtype, at the end."""
    return replace(record, model={**record.model, **model}, settings={**record.settings, **(settings or {})})


def made_here(model_source: str, corpus_source: str) -> dict[str, Any]:
    """Return the provenance of a run that is traced on this machine: of what, with what, where, when."""
    return {
        "model_source": model_source,
        "corpus_source": corpus_source,
        "moetrace": version("moetrace"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.system()}",
        "created": _now(),
    }


def made_elsewhere(sources: Sequence[str]) -> dict[str, Any]:
    """Return the provenance of a run that another tool traced: from which files, with what, when."""
    return {"sources": list(sources), "moetrace": version("moetrace"), "created": _now()}


def _in_order(part: str, known: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    if unknown := known.keys() - set(keys):
        raise ValueError(f"{', '.join(sorted(unknown))}: no part of the {part} of a run record")
    return {key: known[key] for key in keys if key in known}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""The head of the page: what was traced, with what, how much of it, what its texts are, and what it takes on disk."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moetrace.analytics.report.section import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from moetrace.analytics.report.source import Source
    from moetrace.store.read.reader import Store


PROFILE = "select * from corpus_profile where {} order by lang"
PROFILED = {  # columns of the table of languages -> those of corpus_profile
    "fertility": "fertility",
    "generated tokens": "generated_tokens",
    "special tokens": "special_tokens",
    "truncated texts": "truncated_texts",
    "duplicate texts": "duplicate_texts",
}


@dataclass(frozen=True)
class Header:
    """The model and run by name, what the page is about, facts as (name, value), the languages, and warnings.

    - about: a sentence that ends before the name of the run or runs
    """

    model: str
    about: str
    run: str
    run_sha256: str
    facts: tuple[tuple[str, str], ...]
    languages: Table
    warnings: tuple[str, ...]


def header(store: Store, source: Source) -> Header:
    """Return what the store's records say of the run."""
    record, model = source.record, source.record.model
    commits = [commit for commit in store.commits if commit.run == record.run]
    shards: dict[str, int] = defaultdict(int)
    texts: dict[str, int] = defaultdict(int)
    tokens: dict[str, int] = defaultdict(int)
    for commit in commits:
        shards[commit.lang] += 1
        texts[commit.lang] += commit.sequences
        tokens[commit.lang] += commit.tokens
    texts_known, tokens_known = "sequences" in record.tables, not record.nominal_tokens
    routes = [file for commit in commits for file in commit.files if file.table == "routes"]
    decisions, size = sum(file.rows for file in routes), sum(file.bytes for file in routes)
    profile = {row["lang"]: row for row in source.frame(PROFILE.format(source.this_run)).to_dicts()}
    days = sorted({commit.created[:10] for commit in commits})
    facts = [
        ("Family", str(model.get("family") or "unknown")),
        ("MoE", f"{len(record.moe_layers)} layers of {record.num_experts} experts, top {record.top_k}"),
        ("Gate weights", _routing(source)),
        ("Languages", f"{len(source.languages):,}" + (f", pivot {source.pivot}" if source.pivot else "")),
        ("Texts", number(sum(texts.values()), known=texts_known)),
        ("Tokens", number(sum(tokens.values()), known=tokens_known)),
        (
            "Routing decisions",
            number(sum(tokens.values()) * len(record.moe_layers) * record.top_k, known=tokens_known),
        ),
        ("Bytes per decision", f"{size / decisions:.2f}" if decisions else "decisions are not kept"),
        *_corpus_facts(source, profile.values()),
        ("Run", record.run),
        ("Data type", str(model.get("dtype") or "unknown")),
        ("Traced", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"),
    ]
    rows = tuple(
        (
            lang,
            number(texts[lang], known=texts_known),
            number(tokens[lang], known=tokens_known),
            f"{tokens[lang] / texts[lang]:.1f}" if texts_known else "unknown",
            f"{shards[lang]:,}",
            *(_counted(profile[lang][column], ".2f" if column == "fertility" else ",") for column in PROFILED.values()),
        )
        for lang in source.languages
    )
    table = Table(
        "Texts and tokens of each language", ("language", "texts", "tokens", "tokens a text", "shards", *PROFILED), rows
    )
    return Header(
        str(model.get("id", "unknown model")),
        "Which experts this model uses for each language: run",
        record.run,
        record.sha256(),
        tuple(facts),
        table,
        _warnings(source, shards),
    )


def _corpus_facts(source: Source, profile: Collection[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what the texts are made of, over all languages; what is not known of one of them is unknown."""
    facts = []
    beside = sorted((row["fertility"], row["lang"]) for row in profile if row["fertility"] is not None)
    others = [(value, lang) for value, lang in beside if lang != source.pivot]
    if others:
        ends = (others[0], others[-1]) if len(others) > 1 else (others[0],)
        said = " to ".join(f"{value:.2f} ({lang})" for value, lang in ends)
        facts.append(("Fertility", f"{said} tokens for one of {source.pivot}"))
    for name, column in (
        ("Generated tokens", "generated_tokens"),
        ("Special tokens", "special_tokens"),
        ("Duplicate texts", "duplicate_texts"),
    ):
        values = [row[column] for row in profile]
        facts.append((name, _counted(None if None in values else sum(values), ",")))
    shared = {row["shared_texts"] for row in profile}
    facts.append(("Texts that all languages have", _counted(shared.pop() if len(shared) == 1 else None, ",")))
    return facts


def _counted(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def number(value: int, *, known: bool) -> str:
    """Return a count as the page shows it."""
    return f"{value:,}" if known else "unknown"


def _routing(source: Source) -> str:
    routing = source.record.routing
    parts = [str(routing.get("scoring") or "unknown")]
    if routing.get("normalized"):
        parts.append("renormalised")
    if routing.get("scale") not in (None, 1, 1.0):
        parts.append(f"scaled by {routing['scale']:g}")
    if routing.get("selection_bias"):
        parts.append("bias-corrected selection")
    return ", ".join(parts)


def _warnings(source: Source, shards: dict[str, int]) -> tuple[str, ...]:
    corpus = source.record.corpus
    planned = {lang: int(number) for lang, number in (corpus.get("shards") or {}).items()}
    absent = [lang for lang in corpus.get("languages", []) if lang not in source.languages]
    found = []
    if absent:
        found.append(f"Not in the store yet: {', '.join(absent)}.")
    partial = [
        f"{lang} ({shards[lang]} of {planned[lang]} shards)"
        for lang in source.languages
        if shards[lang] < planned.get(lang, 0)
    ]
    if partial:
        found.append(f"Traced in part: {', '.join(partial)}.")
    return tuple(found)

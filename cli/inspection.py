"""`moetrace inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from moetrace.cli.options import SHARD_TOKENS, corpus_selection
from moetrace.cli.terminal import json_document, printable, say

if TYPE_CHECKING:
    from moetrace.tracer.corpus.corpus import Corpus
    from moetrace.tracer.plan.plan import Plan
    from moetrace.tracer.runs.inspection import Inspection

UNITS = (("days", 86400), ("h", 3600), ("min", 60))


@click.command("inspect", short_help="What tracing a model would record, before it runs.")
@click.argument("model")
@click.option("--corpus", metavar="SPEC", help="Also tokenise this corpus and count shards, bytes and time.")
@corpus_selection
@SHARD_TOKENS
@click.option("--revision", metavar="R", help="Revision of the model on its hub.")
@click.option("--no-time", is_flag=True, help="Leave out the rough time, and the measuring of this machine.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def inspect(
    model: str,
    corpus: str | None,
    languages: tuple[str, ...],
    limit: int | None,
    text_template: str | None,
    id_template: str | None,
    sample: int | None,
    sample_seed: int,
    shard_tokens: int,
    revision: str | None,
    no_time: bool,
    as_json: bool,
) -> None:
    """Print what tracing MODEL (a local folder, a hub id, or `bundled`) would record; no weight is loaded.

    Sizes are estimates from measured bytes a decision; the time is rough: 2 operations for each active parameter and
    token, at the rate of matrix products on this machine.

    \b
    moetrace inspect bundled
    moetrace inspect bundled --corpus bundled --json
    moetrace inspect Qwen/Qwen3-30B-A3B --corpus hf:openlanguagedata/flores_plus::devtest --lang eng_Latn
    """  # noqa: D301  click wants the escape itself
    from moetrace.tracer.bundled import named_corpus, named_model
    from moetrace.tracer.runs.inspection import inspect_model, matmul_rate

    found = inspect_model(named_model(model), revision)
    record = found.record(shard_tokens)
    if corpus is not None:
        from moetrace.tracer.corpus.corpus import open_corpus

        opened = open_corpus(named_corpus(corpus), text_template=text_template, id_template=id_template).only(languages)
        with _plan(
            found, opened if sample is None else opened.sample(sample, sample_seed), shard_tokens, limit
        ) as plan:
            flops = None if no_time or found.active_parameters is None else matmul_rate()
            record["corpus"] = {"source": corpus, **found.corpus_record(plan, flops)}
    if as_json:
        click.echo(json_document(record))
    else:
        for line in _lines(found, record):
            click.echo(printable(line))
    _say_what_is_missing()


def _say_what_is_missing() -> None:
    from moetrace.store.errors import MoetraceError
    from moetrace.tracer.engine.settings import require_engine

    try:
        require_engine()
    except MoetraceError as error:
        say(printable(str(error)))


def _plan(found: Inspection, corpus: Corpus, shard_tokens: int, limit: int | None) -> Plan:
    from moetrace.tracer.model.tokenizer import load_tokenizer
    from moetrace.tracer.plan.plan import make_plan
    from moetrace.tracer.plan.progress import SaidNowAndThen
    from moetrace.tracer.plan.prompts import PromptSettings, encoder
    from moetrace.tracer.plan.tokenising import Effort

    encode = encoder(load_tokenizer(found.facts), PromptSettings(), answered=False)
    return make_plan(
        corpus,
        encode,
        shard_tokens=shard_tokens,
        window=found.facts.window - 1,
        limit=limit,
        progress=SaidNowAndThen(say),
        effort=Effort.of_machine(encode),
    )


def _lines(found: Inspection, record: dict[str, Any]) -> list[str]:
    from moetrace.store.mask import in_spans

    facts, store = found.facts, record["store"]
    shared = f", and {facts.shared_experts} shared that every token takes" if facts.shared_experts else ""
    guessed = "" if found.known_family else " (not in the family table: guessed from the config's names)"
    grids = [f"{size:,.0f} ({grid} weights)" for grid, size in store["routes_bytes_per_token"].items()]
    memory, each = store["shard_bytes_in_memory"], store["profile_bytes_in_memory_per_text"]
    rows = {
        "model": f"{facts.id}" + (f" at {facts.revision}" if facts.revision else ""),
        "family": facts.family + guessed,
        "MoE layers": f"{len(facts.moe_layers)} of {facts.num_layers}: {in_spans(facts.moe_layers)}",
        "experts": f"{facts.num_experts} a layer, {facts.top_k} chosen for each token{shared}",
        "gate weights": record["routing"]["words"],
        "window": f"{facts.window:,} tokens",
        "parameters": _parameters(found),
        "decisions": f"{found.decisions:,} a token",
        "routes": f"{' to '.join(grids)} bytes a token in the store",
        "profiles": f"{store['profiles_bytes_per_text']:,.0f} bytes a text in the store",
        "memory": f"{size(memory)} for a shard of {store['shard_tokens']:,} tokens, and {size(each)} for each text",
    }
    if "corpus" in record:
        rows |= _corpus_rows(record["corpus"])
    width = max(map(len, rows))
    return [f"{name:<{width}}  {text}" for name, text in rows.items()]


def _corpus_rows(corpus: dict[str, Any]) -> dict[str, str]:
    tokens = sum(corpus["tokens"].values())
    cut = f", {corpus['truncated']:,} truncated to the window" if corpus["truncated"] else ""
    rows = {
        "corpus": f"{corpus['source']}: {len(corpus['languages'])} languages, {sum(corpus['texts'].values()):,} texts, "
        f"{tokens:,} tokens, {sum(corpus['shards'].values()):,} shards{cut}"
    }
    for lang in corpus["languages"]:
        lacking = f", {corpus['missing'][lang]:,} texts lacking" if lang in corpus["missing"] else ""
        counts = [_counted(corpus[what][lang], what) for what in ("texts", "tokens", "shards")]
        rows[f"  {lang}"] = ", ".join(counts) + lacking
    sizes = [f"{size(total)} ({grid} weights)" for grid, total in corpus["store_bytes"].items()]
    rows["store size"] = (
        f"about {' to '.join(sizes)}; largest shard {size(corpus['largest_shard_bytes_in_memory'])} in memory"
    )
    if corpus["rough_seconds"] is not None:
        rows["rough time"] = (
            f"{duration(corpus['rough_seconds'])} of multiplying at {corpus['flops_per_second'] / 1e9:,.0f} GFLOP/s "
            f"(float32 on this machine's CPU); the engine's start and all else come on top"
        )
    return rows


def _parameters(found: Inspection) -> str:
    each = f"{found.facts.parameters_per_expert:,} an expert"
    if found.checkpoint is None:
        return f"{each}; the model's are not known (no safetensors files that can be read)"
    weights = f"{size(found.checkpoint.bytes)} of weights"
    if found.parameters is None:
        return f"{each}; the model's are packed ({weights})"
    active = "" if found.active_parameters is None else f", {found.active_parameters:,} active for a token"
    return f"{found.parameters:,}{active}, {each}; {weights}"


def _counted(count: int, plural: str) -> str:
    return f"{count:,} {plural if count != 1 else plural.removesuffix('s')}"


def size(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB" if count < 1000 else f"{count / 1000:,.1f} TB"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 1:
        return "under a second"
    unit, length = next(((unit, length) for unit, length in UNITS if seconds >= 2 * length), ("s", 1))
    return f"{seconds / length:,.0f} {unit}"

"""Re-test the claims and print them.

python -m tests.experiments.claims --data DIR -o OUT [--results FILE]
python -m tests.experiments.claims --from docs/findings/claims.json
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from tests.experiments.claims import claims


def write_held_out(ui_strings: Path, folder: Path) -> None:
    """Write the held-out user-interface strings, a file a language."""
    from moetrace.tracer.bundled.training_texts import is_held_out, read_corpus

    lines: dict[str, list[str]] = {}
    for row in read_corpus("ui-strings", ui_strings):
        if is_held_out(row):
            line = json.dumps({"id": row.id, "text": row.text}, ensure_ascii=False)
            lines.setdefault(row.lang, []).append(line)
    staged = Path(tempfile.mkdtemp(dir=folder.parent))
    for lang, found in lines.items():
        (staged / f"{lang}.jsonl").write_text("\n".join(found) + "\n", encoding="utf-8")
    staged.rename(folder)


def reading_of(ui_strings: Path) -> dict[str, dict[str, float]]:
    """Return what a held-out user-interface string costs alone and after its English, by language."""
    import torch
    from transformers import AutoTokenizer, Qwen3MoeForCausalLM

    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.bundled.reading import reading_losses, readings
    from moetrace.tracer.bundled.training_texts import is_held_out, read_corpus

    held_out = [row for row in read_corpus("ui-strings", ui_strings) if is_held_out(row)]
    model = Qwen3MoeForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return reading_losses(model, AutoTokenizer.from_pretrained(MODEL), readings(held_out))


def experiment(data: Path, output: Path) -> dict[str, Any]:
    """Trace what is not traced yet, measure every claim, and return the raw results."""
    import moetrace
    from moetrace.tracer.bundled import MODEL
    from tests.experiments.rise.arms import moetrace as command

    training = json.loads((MODEL / "training.json").read_text(encoding="utf-8"))["languages"]
    texts, store = output / "held-out", output / "store"
    if not texts.exists():
        write_held_out(data / "ui-strings", texts)
    for run, corpus in (("strings", texts), ("udhr", data / "udhr")):
        command("trace", "bundled", "--corpus", corpus, "--store", store, "--run", run, "--dtype", "float32")
    start = time.monotonic()
    found = []
    with moetrace.connect(store) as connection:
        for run, name in (("strings", "UI strings"), ("udhr", "UDHR")):
            traced = claims.Traced(connection, run, name, training)
            found += [measure(traced) for measure in (claims.isolation, claims.convergence, claims.sharing)]
            if run == "strings":
                found.append(claims.performance(traced, reading_of(data / "ui-strings")))
            found += [measure(traced) for measure in (claims.vocabulary, claims.specialization)]
            click.echo(f"{name}: {time.monotonic() - start:.0f} s", err=True)
    return {"claims": sorted(found, key=lambda one: [entry["claim"] for entry in found].index(one["claim"]))}


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="Write the raw results here.")
@click.option("--from", "source", type=click.Path(exists=True, path_type=Path), help="Only print these results.")
def main(data: Path | None, output: Path | None, results: Path | None, source: Path | None) -> None:
    """Re-test the claims and print them."""
    if source is not None:
        found = json.loads(source.read_text(encoding="utf-8"))
    elif data is None or output is None:
        raise click.UsageError("give --data and -o, or --from")
    else:
        output.mkdir(parents=True, exist_ok=True)
        found = experiment(data, output)
        results = results or output / "results.json"
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(claims.as_json(found), encoding="utf-8")
    print(claims.tables(found))


if __name__ == "__main__":
    main()

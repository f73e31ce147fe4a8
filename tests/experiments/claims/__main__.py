"""Re-test the claims and print them.

python -m tests.experiments.claims --data DIR -o OUT [--results FILE]
python -m tests.experiments.claims --from docs/findings/claims.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.tracer.bundled.training_texts import Text, is_held_out, read_corpus, write_corpus
from tests.experiments.claims import claims

if TYPE_CHECKING:
    from collections.abc import Callable


def reading_of(held_out: list[Text]) -> dict[str, dict[str, float]]:
    """Return what a held-out text costs alone and after its English, by language."""
    import torch
    from transformers import AutoTokenizer, Qwen3MoeForCausalLM

    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.bundled.reading import reading_losses, readings

    model = Qwen3MoeForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return reading_losses(model, AutoTokenizer.from_pretrained(MODEL), readings(held_out))


def experiment(data: Path, output: Path) -> dict[str, Any]:
    """Trace what is not traced yet, measure every claim, and return the raw results."""
    import moetrace
    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.bundled.command import moetrace as command

    training = json.loads((MODEL / "training.json").read_text(encoding="utf-8"))["languages"]
    texts, store = output / "held-out", output / "store"
    held_out = [row for row in read_corpus("ui-strings", data / "ui-strings") if is_held_out(row)]
    write_corpus(held_out, texts)
    for run, corpus in (("strings", texts), ("udhr", data / "udhr")):
        command("trace", "bundled", "--corpus", corpus, "--store", store, "--run", run, "--dtype", "float32")
    with moetrace.connect(store) as connection:
        strings = claims.Traced(connection, "strings", "UI strings", training)
        udhr = claims.Traced(connection, "udhr", "UDHR", training)

        def measured(*measures: Callable[[claims.Traced], dict[str, Any]]) -> list[dict[str, Any]]:
            return [measure(traced) for measure in measures for traced in (strings, udhr)]

        found = [
            *measured(claims.isolation, claims.convergence, claims.sharing),
            claims.performance(strings, reading_of(held_out)),
            *measured(claims.vocabulary, claims.specialization),
        ]
    return {"claims": found}


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

"""Memory and time of planning a corpus: resident memory must not grow with the corpus.

    python -m tests.benchmarks.bench_plan --megabytes 20 400

Each size is a corpus of its own (two languages, JSON lines, texts of some 250 characters made of the bundled corpus's
words), planned in a process of its own with the bundled model's tokenizer. Peaks are resident memory above what the
process took after planning one megabyte; `read` is the peak after all shards' tokens were asked for, too.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

LANGUAGES = ("eng_Latn", "swh_Latn")
SHARD_TOKENS, WINDOW = 32768, 2047
WARM_UP_MEGABYTES = 1


def write_corpus(folder: Path, megabytes: int) -> None:
    """Write a corpus of about this size; the same one every time."""
    from moetrace.tracer.bundled import CORPUS

    for lang in LANGUAGES:
        lines = (Path(str(CORPUS)) / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()
        words = " ".join(json.loads(line)["text"] for line in lines).split()
        draw, written, number = random.Random(lang), 0, 0  # noqa: S311  a corpus, not a secret
        with (folder / f"{lang}.jsonl").open("w", encoding="utf-8") as out:
            while written < megabytes * 1_000_000 / len(LANGUAGES):
                text = " ".join(draw.choices(words, k=draw.randint(20, 60)))
                written += out.write(json.dumps({"id": f"text-{number}", "text": text}, ensure_ascii=False) + "\n")
                number += 1


def measure(corpora: Path, megabytes: int) -> dict[str, float]:
    """Plan a small corpus, then the one of this size; return peaks in MB and CPU seconds."""
    from transformers import AutoTokenizer

    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.corpus.corpus import open_corpus
    from moetrace.tracer.plan.plan import Plan, make_plan

    tokenizer = AutoTokenizer.from_pretrained(str(MODEL))

    def plan(size: int) -> Plan:
        corpus = open_corpus(str(corpora / str(size)))
        return make_plan(corpus, lambda texts: tokenizer(texts)["input_ids"], shard_tokens=SHARD_TOKENS, window=WINDOW)

    read(plan(WARM_UP_MEGABYTES))
    baseline, started = peak(), process_time()
    made = plan(megabytes)
    seconds, planned = process_time() - started, peak()
    tokens = read(made)
    return {
        "megabytes": megabytes,
        "texts": sum(len(shard.seqs) for shard in made.shards),
        "tokens": tokens,
        "baseline": baseline,
        "planned": planned - baseline,
        "read": peak() - baseline,
        "seconds": seconds,
    }


def read(plan: object) -> int:
    """Ask for the tokens of every shard, as tracing does, and return their number."""
    return sum(len(ids) for shard in plan.shards for ids in shard.token_ids)  # type: ignore[attr-defined]


def peak() -> float:
    """Return this process's peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[20, 400])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.megabytes[0])))
        return
    print("| corpus MB | texts | tokens | baseline MB | peak above it, MB | read, MB | CPU s per million tokens |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    with TemporaryDirectory() as corpora:
        for size in {WARM_UP_MEGABYTES, *options.megabytes}:
            (Path(corpora) / str(size)).mkdir()
            write_corpus(Path(corpora) / str(size), size)
        for size in options.megabytes:
            command = [sys.executable, __file__, "--measure", corpora, "--megabytes", str(size)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                "| {megabytes} | {texts:,} | {tokens:,} | {baseline:.0f} | {planned:.0f} | {read:.0f} |".format(
                    **found
                ),
                f"{found['seconds'] / found['tokens'] * 1e6:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

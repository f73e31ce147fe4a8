"""Speed, memory and time of planning a corpus.

    python -m tests.benchmarks.bench_plan --megabytes 20 400        # memory and time by the size of a corpus
    python -m tests.benchmarks.bench_plan --speed 50                # tokens a second by processes, and planning again
    python -m tests.benchmarks.bench_plan --texts 1000000 10000000  # memory by the number of tiny texts

Corpora are two languages of texts of some 250 characters made of the bundled corpus's words, JSON lines, tokenised with
the bundled model's tokenizer; each is planned in a process of its own. Tiny texts are made as they are read, and three
tokens each. Peaks are resident memory above what the process took after planning a small corpus; `read` is the peak
after all shards' tokens were asked for, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moetrace.tracer.plan.kept import KeptParts
    from moetrace.tracer.plan.plan import Plan
    from moetrace.tracer.plan.prompts import Encoder

LANGUAGES = ("eng_Latn", "swh_Latn")
SHARD_TOKENS, WINDOW = 32768, 2047
WARM_UP_MEGABYTES = 1
WARM_UP_TEXTS = 10_000
CHAT = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}\n{% endfor %}<|assistant|>\n"
# What is timed in turns: processes, and whether parts are kept (the second time, all are found).
WAYS = {"none": (0, False), "1": (1, False), "2": (2, False), "2, parts kept": (2, True), "all parts found": (2, True)}


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
    from moetrace.tracer.corpus.corpus import open_corpus
    from moetrace.tracer.plan.plan import make_plan

    encode = encoders()["text"]

    def plan(size: int) -> Plan:
        corpus = open_corpus(str(corpora / str(size)))
        return make_plan(corpus, encode, shard_tokens=SHARD_TOKENS, window=WINDOW)

    read(plan(WARM_UP_MEGABYTES))
    baseline, started = peak(), process_time()
    made = plan(megabytes)
    seconds, planned = process_time() - started, peak()
    tokens = read(made)
    return {
        "megabytes": megabytes,
        "texts": made.texts,
        "tokens": tokens,
        "baseline": baseline,
        "planned": planned - baseline,
        "read": peak() - baseline,
        "seconds": seconds,
    }


def measure_texts(count: int) -> dict[str, float]:
    """Plan a few, then `count` tiny texts in each of two languages; return peaks in MB and CPU seconds."""
    from moetrace.tracer.corpus.corpus import Corpus
    from moetrace.tracer.corpus.fields import Text
    from moetrace.tracer.plan.plan import make_plan

    def plan(texts: int) -> Plan:
        def made(_: str) -> Iterator[Text]:
            return (Text(f"text-{number}", str(number)) for number in range(texts))

        corpus = Corpus("made", LANGUAGES, made)
        return make_plan(corpus, lambda batch: [[1, 2, 3]] * len(batch), shard_tokens=SHARD_TOKENS, window=WINDOW)

    plan(WARM_UP_TEXTS)
    baseline, started = peak(), process_time()
    with plan(count) as made:
        return {"texts": made.texts, "peak": peak() - baseline, "seconds": process_time() - started}


def measure_speed(corpus: Path, rounds: int) -> Iterator[dict[str, object]]:
    """Yield, for texts and for chats, each way's tokens a second, CPU seconds, and both beside the tokenizer's own."""
    from moetrace.tracer.corpus.corpus import open_corpus
    from moetrace.tracer.plan.kept import KeptParts
    from moetrace.tracer.plan.plan import make_plan
    from moetrace.tracer.plan.tokenising import Effort

    opened = open_corpus(str(corpus))
    texts = [text.text for lang in LANGUAGES for text in opened.read(lang)]

    def plan(encode: Encoder, workers: int, kept: KeptParts | None) -> None:
        effort = Effort(workers, kept, patience=0)
        make_plan(opened, encode, shard_tokens=SHARD_TOKENS, window=WINDOW, effort=effort).close()

    for prompt, encode in encoders().items():
        tokens = own(encode, texts)
        seen: dict[str, list[tuple[float, float]]] = {way: [] for way in ("own", *WAYS)}
        for _ in range(rounds):
            with TemporaryDirectory() as folder:
                seen["own"].append(timed(lambda encode=encode: own(encode, texts)))
                for way, (workers, keeps) in WAYS.items():
                    kept = KeptParts(Path(folder), encode.digest(), encode.vocabulary) if keeps else None
                    seen[way].append(timed(lambda e=encode, w=workers, k=kept: plan(e, w, k)))
        for way, times in seen.items():
            cores = max(1, WAYS.get(way, (1, False))[0])
            yield {
                "prompt": prompt,
                "way": way,
                "speed": tokens / median(wall for wall, _ in times),
                "cpu": median(cpu for _, cpu in times) / tokens * 1e6,
                "ratio": median(mine[0] / wall / cores for (wall, _), mine in zip(times, seen["own"], strict=True)),
                "share": median(mine[1] / cpu for (_, cpu), mine in zip(times, seen["own"], strict=True)),
            }


def encoders() -> dict[str, Encoder]:
    """Return the bundled model's tokenizer for texts as they are and for chats."""
    from transformers import AutoTokenizer

    from moetrace.tracer.bundled import MODEL
    from moetrace.tracer.plan.prompts import PromptSettings, encoder

    tokenizer = AutoTokenizer.from_pretrained(str(MODEL))
    chat = PromptSettings(chat=True, system="Answer in one sentence.", chat_template=CHAT)
    return {
        "text": encoder(tokenizer, PromptSettings(), answered=False),
        "chat": encoder(tokenizer, chat, answered=True),
    }


def own(encode: Encoder, texts: list[str]) -> int:
    """Return the number of token ids that transformers makes of texts, called as its documentation says."""
    tokenizer, chat, found = encode.tokenizer, encode.settings.chat, 0
    for first in range(0, len(texts), 1024):
        batch = texts[first : first + 1024]
        if chat:
            system = {"role": "system", "content": encode.settings.system}
            messages = [[system, {"role": "user", "content": text}] for text in batch]
            batch = tokenizer.apply_chat_template(
                messages, chat_template=encode.settings.chat_template, tokenize=False, add_generation_prompt=True
            )
        found += sum(map(len, tokenizer(batch, add_special_tokens=not chat)["input_ids"]))
    return found


def timed(job: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a job, those of its processes included."""
    wall, before = perf_counter(), cpu()
    job()
    return perf_counter() - wall, cpu() - before


def cpu() -> float:
    """Return the CPU seconds of this process and of those of its processes that have ended."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def read(plan: object) -> int:
    """Ask for the tokens of every shard, as tracing does, and return their number."""
    return sum(len(ids) for shard in plan.shards for ids in shard.token_ids)  # type: ignore[attr-defined]


def peak() -> float:
    """Return this process's peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def apart(job: str, *arguments: object) -> str:
    """Run one measurement in a process of its own, where the tokenizer has one thread; return what it prints."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_plan", "--measure", job, *map(str, arguments)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def print_sizes(corpora: Path, megabytes: list[int]) -> None:
    """Print memory and time by the size of a corpus."""
    print("| corpus MB | texts | tokens | baseline MB | peak above it, MB | read, MB | CPU s per million tokens |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for size in megabytes:
        found = json.loads(apart("sizes", corpora, size))
        print(
            "| {megabytes} | {texts:,} | {tokens:,} | {baseline:.0f} | {planned:.0f} | {read:.0f} |".format(**found),
            f"{found['seconds'] / found['tokens'] * 1e6:.2f} |",
            flush=True,
        )


def print_texts(counts: list[int]) -> None:
    """Print memory and time by the number of texts."""
    print("| tiny texts in two languages | peak above that of 20,000, MB | bytes a text | CPU microseconds a text |")
    print("|---:|---:|---:|---:|")
    for count in counts:
        found = json.loads(apart("texts", count // len(LANGUAGES)))
        texts, megabytes = found["texts"], found["peak"]
        each = f"{megabytes * 1e6 / texts:.1f} | {found['seconds'] / texts * 1e6:.2f}"
        print(f"| {texts:,} | {megabytes:.0f} | {each} |", flush=True)


def print_speed(corpus: Path, rounds: int) -> None:
    """Print tokens a second by processes."""
    print("| prompt | processes | tokens/s | / (own tokens/s x processes) | CPU s per million tokens | own CPU / CPU |")
    print("|---|---|---:|---:|---:|---:|")
    for line in apart("speed", corpus, rounds).splitlines():
        print("| {prompt} | {way} | {speed:,.0f} | {ratio:.2f} | {cpu:.2f} | {share:.2f} |".format(**json.loads(line)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[])
    parser.add_argument("--texts", type=int, nargs="+", default=[])
    parser.add_argument("--speed", type=int, metavar="MB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        job, *arguments = options.measure
        if job == "sizes":
            print(json.dumps(measure(Path(arguments[0]), int(arguments[1]))))
        elif job == "texts":
            print(json.dumps(measure_texts(int(arguments[0]))))
        else:
            for row in measure_speed(Path(arguments[0]), int(arguments[1])):
                print(json.dumps(row), flush=True)
        return
    with TemporaryDirectory() as folder:
        corpora = Path(folder)
        for size in {WARM_UP_MEGABYTES, *options.megabytes, *([options.speed] if options.speed else [])}:
            (corpora / str(size)).mkdir()
            write_corpus(corpora / str(size), size)
        if options.megabytes:
            print_sizes(corpora, options.megabytes)
        if options.speed:
            print_speed(corpora / str(options.speed), options.rounds)
        if options.texts:
            print_texts(options.texts)


if __name__ == "__main__":
    main()

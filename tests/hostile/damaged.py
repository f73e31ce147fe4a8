"""Records that are no records: texts that are no JSON, that are too large, or that say a thing twice."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from moetrace.store.format.sealed import CHECKSUM, digest
from tests.hostile.case import COMMIT, COPY, INDEX, RUN
from tests.hostile.hostile import BESIDE, HARMLESS, REFUSED, Hostile
from tests.support.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.case import Case

CLAIM = "claims/run=run/lang=deu_Latn/00000.json"
ATTEMPTS = "attempts/run=run/lang=deu_Latn/00000.json"
PLAN = "plan/run=run.json"
FAILED = "failed/run=run/lang=deu_Latn/00000.json"
SHA256 = "0" * 64

TEXTS: dict[str, str | bytes] = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep_and_open": '{"a":' * 100_000,
    "seventy_deep": '{"a":' * 70 + "1" + "}" * 70,
    "no_utf8": b'{"a": "\xff\xfe"}',
    "utf16": '{"a": 1}'.encode("utf-16"),
    "empty": "",
    "nul": b"\0" * 4096,
    "open": '{"a": 1',
    "a_list": "[]",
    "a_text": '"x"',
    "null": "null",
    "a_number_of_a_million_digits": f'{{"a": {"9" * 1_000_000}}}',
}


def stores() -> Iterator[tuple[str, Hostile]]:
    for path, expect in (("store.json", REFUSED), (RUN, REFUSED), (COMMIT, REFUSED), (COPY, BESIDE), (INDEX, BESIDE)):
        name = path.replace("/", "_")
        for what in TEXTS if path in {RUN, COMMIT} else ("deep", "no_utf8", "a_list"):
            yield f"{what}_at_{name}", Hostile(_text(path, TEXTS[what]), expect)
        yield f"a_hundred_gigabytes_at_{name}", Hostile(_huge(path), REFUSED if path == COPY else expect)
        yield f"a_key_twice_at_{name}", Hostile(_twice(path), expect)
        yield f"an_unknown_key_at_{name}", Hostile(lambda case, path=path: case.fields(path, more=1), expect)
    for path in (RUN, COMMIT):
        name = path.replace("/", "_")
        for number in ("NaN", "-Infinity", "1e999"):
            yield f"{number}_at_{name}", Hostile(_replaced(path, '"checksum"', f'"a": {number}, "checksum"'), REFUSED)
        yield f"one_letter_at_{name}", Hostile(_replaced(path, '"usage"', '"usagf"'), REFUSED)
        yield f"one_letter_and_sealed_at_{name}", Hostile(_replaced(path, '"usage"', '"usagf"', seal=True), REFUSED)
        yield f"unsealed_at_{name}", Hostile(_unsealed(path), REFUSED)
        yield f"sealed_with_a_list_at_{name}", Hostile(_sealed_with(path, [1]), REFUSED)
        yield f"sealed_with_null_at_{name}", Hostile(_sealed_with(path, None), REFUSED)
    for member in ("run", "model", "routing", "corpus", "settings"):
        yield f"run_without_{member}", Hostile(_without(RUN, member), REFUSED)
    for part, member in (("settings", "tables"), ("model", "num_experts"), ("corpus", "languages")):
        yield (
            f"run_without_{member}",
            Hostile(
                lambda case, part=part, member=member: case.change(RUN, lambda run: run[part].pop(member)), REFUSED
            ),
        )
    for member in ("files", "lang", "run_sha256", "tokens"):
        yield f"commit_without_{member}", Hostile(_without(COMMIT, member), REFUSED)
    yield "run_without_copy", Hostile(lambda case: case.remove(COPY), HARMLESS)
    yield "run_without_record", Hostile(lambda case: case.remove(RUN), REFUSED)
    yield "run_without_either", Hostile(lambda case: (case.remove(RUN), case.remove(COPY)), REFUSED)
    yield "copy_of_another_run", Hostile(lambda case: case.fields(COPY, run="general"), BESIDE)
    yield "no_format", Hostile(lambda case: case.remove("store.json"), REFUSED)
    yield "an_older_format_says_nothing_is_sealed", Hostile(_said_older, REFUSED)
    yield from _beside()


def _beside() -> Iterator[tuple[str, Hostile]]:
    """Yield what stands beside shards: a claim that cannot be read is nobody's after a while, and never in the way."""
    held: dict[str, int | None] = {"rm": 1, "rm-lang": 1, "rm-force": 1}
    claim = {"machine": "m", "process": 1, "started": "1", "id": "x", "run_sha256": SHA256, "renewed": 1.0}
    claims: dict[str, dict[str, Any]] = {
        "of_another_machine": {},
        "of_the_future": {"renewed": 1e300},
        "of_process_2_to_the_53": {"process": 2**53},
        "of_process_negative": {"process": -1},
        "for_a_terminal": {"machine": "\x1b[2J\u202e host", "id": "\x1b"},
    }
    for what, fields in claims.items():
        content = {**claim, **fields}
        yield f"claim_{what}", Hostile(lambda case, content=content: case.write_json(CLAIM, content), HARMLESS, held)
    for what in ("deep", "no_utf8", "empty", "a_list"):
        yield f"claim_{what}", Hostile(_text(CLAIM, TEXTS[what]), HARMLESS, held)
        yield f"attempts_{what}", Hostile(_text(ATTEMPTS, TEXTS[what]), HARMLESS)
        yield f"plan_{what}", Hostile(_text(PLAN, TEXTS[what]), BESIDE)
        yield f"failed_{what}", Hostile(_text(FAILED, TEXTS[what]), BESIDE)
    yield "claim_of_a_hundred_gigabytes", Hostile(_huge(CLAIM), HARMLESS, held)
    yield "plan_of_a_hundred_gigabytes", Hostile(_huge(PLAN), BESIDE)
    yield (
        "plan_of_another_record",
        Hostile(lambda case: case.write_json(PLAN, {"run": "run", "run_sha256": SHA256, "shards": {}}), BESIDE),
    )
    yield "plan_of_200000_shards", Hostile(_long_plan, HARMLESS)
    yield (
        "failed_for_a_terminal",
        Hostile(
            lambda case: case.write_json(
                FAILED,
                {
                    "run": "run",
                    "lang": "deu_Latn",
                    "shard": 0,
                    "run_sha256": read_record(case.store / COMMIT)["run_sha256"],
                    "texts": [{"seq": 0, "text_id": "\x1b[2J", "reason": "\u202e"}],
                },
            ),
            HARMLESS,
        ),
    )
    strays = {
        "thumbs": ("runs/Thumbs.db", REFUSED),
        "thumbs_of_commits": ("commits/run=run/Thumbs.db", REFUSED),
        "hidden": ("runs/.DS_Store", HARMLESS),
        "hidden_record": ("runs/._run.json", HARMLESS),
        "hidden_commit": ("commits/run=run/lang=deu_Latn/._00000.json", HARMLESS),
        "hidden_folder": ("commits/.cache/x", HARMLESS),
        "top": ("notes.txt", HARMLESS),
        "terminal": ("\x1b[2J\nname\u202e", HARMLESS),
        "quarantine": ("quarantine/whatever/../reasons.json", HARMLESS),
        "quarantine_deep": (f"quarantine/{'x/' * 500}x", HARMLESS),
        "quarantine_reasons": ("quarantine/20200101T000000Z-00000000/reasons.json", HARMLESS),
        "tables": ("routes/run=run/lang=deu_Latn/00007.parquet", HARMLESS),
        "attempt": ("routes/run=run/lang=deu_Latn/00000-0123abcd.parquet", HARMLESS),
    }
    for what, (path, expect) in strays.items():
        yield f"stray_{what}", Hostile(lambda case, path=path: case.write(path, "x"), expect)
    yield "ten_thousand_strays", Hostile(_many_strays, HARMLESS)


def _text(path: str, text: str | bytes) -> Callable[[Case], object]:
    return lambda case: case.write(path, text)


def _huge(path: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        case.write(path, "{")
        os.truncate(case.store / path, 100 << 30)

    return build


def _twice(path: str) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        text = (case.store / path).read_text().rstrip()
        first = next(iter(read_record(case.store / path)))
        case.write(path, f'{text[:-1]}, "{first}": "other"}}')

    return build


def _replaced(path: str, old: str, new: str, *, seal: bool = False) -> Callable[[Case], object]:
    def build(case: Case) -> None:
        text = (case.store / path).read_text()
        assert old in text
        case.write(path, text.replace(old, new))
        if seal:
            case.fields(path)

    return build


def _unsealed(path: str) -> Callable[[Case], object]:
    return lambda case: case.write(path, json.dumps(read_record(case.store / path)))


def _sealed_with(path: str, checksum: Any) -> Callable[[Case], object]:
    return lambda case: case.write(path, json.dumps({**read_record(case.store / path), CHECKSUM: checksum}))


def _without(path: str, member: str) -> Callable[[Case], object]:
    return lambda case: case.change(path, lambda record: record.pop(member))


def _said_older(case: Case) -> None:
    """Say that the store is of format 3, whose records need no checksum, and be read as one."""
    content = {"format": "moetrace-store", "version": 3}
    case.write("store.json", json.dumps({**content, CHECKSUM: digest(content)}))


def _long_plan(case: Case) -> None:
    from moetrace.store.format.records import RunRecord

    sha256 = RunRecord(**read_record(case.store / RUN)).sha256()
    shards = [{"sequences": 1, "tokens": 1}] * 200_000
    case.write_json(PLAN, {"run": "run", "run_sha256": sha256, "shards": {"zzz_Latn": shards}})


def _many_strays(case: Case) -> None:
    for number in range(10_000):
        path = case.store / "notes" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.touch()

"""What becomes of a job whose engine raises on a text, or whose process dies of one; the engine is a stand-in."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from moetrace.store.errors import CaptureError, MoetraceError
from moetrace.store.format import layout
from moetrace.store.format.attempts_record import TWO_DIED, AttemptsRecord
from moetrace.store.read.reader import Store
from moetrace.store.verify.verify import verify
from moetrace.store.write.writer import StoreWriter
from moetrace.tracer.runs.parts import PartsMemory
from moetrace.tracer.runs.settings import TraceSettings
from tests.chaos.harness import contents
from tests.support.poisoned import (
    AHEAD,
    BYTES,
    TEXTS,
    WHY,
    WORLD,
    Engines,
    made_shards,
    planned_shards,
    sizes,
    traced,
    without,
)
from tests.support.writer_server import ForkedProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.support.poisoned import StandInEngine

JOB = "tests.support.poisoned:trace_and_die"
LANG = "deu_Latn"
IDS = [text.text_id for text in WORLD.texts[LANG]]
EVERY = [f"{lang}/{text.text_id}" for lang, texts in WORLD.texts.items() for text in texts]


@pytest.fixture(autouse=True)
def _garbage_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test session has much that is looked through, and no engine's memory to give back."""
    monkeypatch.setattr("moetrace.tracer.runs.engines.gc.collect", lambda: 0)


def raising(bad: Iterable[str], times: int = 10**6) -> Callable[[str, str], None]:
    """Return what raises on texts `lang/id`, each so many times."""
    left = Counter(dict.fromkeys(bad, times))

    def breaks(lang: str, text_id: str) -> None:
        if left[f"{lang}/{text_id}"] > 0:
            left[f"{lang}/{text_id}"] -= 1
            raise RuntimeError(f"{WHY}\nin a kernel")

    return breaks


def expected(folder: Path, bad: Iterable[str], why: str) -> dict[tuple[str, str, int], str]:
    """Return what the tables must be, written of shards that nobody cut up."""
    bad = set(bad)
    with StoreWriter(folder, WORLD.record, sizes()) as writer:
        for shard in made_shards().values():
            mine = [text_id for text_id in shard.text_ids if f"{shard.lang}/{text_id}" in bad]
            writer.write(without(shard, mine, why) if mine else shard)
    return contents(str(folder))


def check(store: Path, bad: Iterable[str], why: str) -> None:
    """Check that a store lacks these texts for this reason, and is bit by bit as if they had never been there."""
    bad = set(bad)
    assert contents(str(store)) == expected(store.with_name("expected"), bad, why)
    aside = {
        f"{record.lang}/{text.text_id}": (text.kind, text.reason)
        for record in Store(store).set_aside()
        for text in record.texts
    }
    assert aside == dict.fromkeys(bad, ("failed", f"could not be traced: {why}"))
    for record in Store(store).set_aside():
        assert [text.text_id for text in record.texts] == [
            WORLD.texts[record.lang][text.seq].text_id for text in record.texts
        ]
    verdict = verify(store)
    assert verdict.problems == []
    assert all(progress.there == progress.planned for progress in verdict.runs)
    assert (verdict.claims, verdict.orphans) == ([], [])
    assert list((store / layout.ATTEMPTS).rglob("*.json")) == []


def test_a_failure_that_does_not_come_again_costs_an_engine_and_no_text(tmp_path: Path) -> None:
    engines = Engines(raising([f"{LANG}/{IDS[3]}"], times=1))
    written = traced(tmp_path / "store", engines.start)
    assert (written.failed, written.set_aside, engines.started) == (0, 0, 2)
    assert (written.shards, written.tokens) == (len(made_shards()), sum(s.tokens for s in made_shards().values()))
    check(tmp_path / "store", [], "")


@pytest.mark.parametrize(
    "bad",
    [[0], [TEXTS - 1], [TEXTS // 2], [2, 3], [1, 6], range(TEXTS), [5, TEXTS + 1], [len(IDS) - 1]],
    ids=["first", "last", "middle", "two in a row", "two", "a whole shard", "in two shards", "in the last shard"],
)
def test_texts_that_fail_again_are_set_aside_and_the_rest_is_as_without_them(tmp_path: Path, bad: list[int]) -> None:
    texts = [f"{LANG}/{IDS[at]}" for at in bad]
    engines = Engines(raising(texts))
    written = traced(tmp_path / "store", engines.start)
    assert (written.failed, written.shards) == (len(texts), len(made_shards()))
    if len(texts) == 1:  # under way with others, alone, then in halves
        assert engines.started <= 1 + 2 + (TEXTS - 1).bit_length()
    check(tmp_path / "store", texts, WHY)


def test_a_bad_text_of_each_language_is_found(tmp_path: Path) -> None:
    texts = [f"{lang}/{texts[-2].text_id}" for lang, texts in WORLD.texts.items()]
    assert traced(tmp_path / "store", Engines(raising(texts)).start).failed == len(texts)
    check(tmp_path / "store", texts, WHY)


@pytest.mark.parametrize("shards", [None, 1], ids=["all shards", "one shard"])
def test_an_engine_that_fails_on_every_text_ends_the_job_and_sets_nothing_aside(
    tmp_path: Path, shards: int | None
) -> None:
    engines = Engines(raising(EVERY))
    with pytest.raises(MoetraceError, match=f"(in a row and traced nothing|not one text of).*{WHY}") as raised:
        traced(tmp_path / "store", engines.start, planned_shards()[:shards])
    assert "\n" not in str(raised.value)
    assert engines.started < 30
    assert Store(tmp_path / "store").commits == []
    assert Store(tmp_path / "store").set_aside() == []
    assert verify(tmp_path / "store").claims == []
    assert traced(tmp_path / "store", Engines(raising([])).start).failed == 0, "the driver was mended"
    check(tmp_path / "store", [], "")


def test_an_engine_that_breaks_for_good_ends_the_job_and_sets_nothing_aside(tmp_path: Path) -> None:
    count = 0

    def breaks(*_: str) -> None:
        nonlocal count
        count += 1
        if count > TEXTS * AHEAD + 3:
            raise RuntimeError(WHY)

    with pytest.raises(MoetraceError, match=f"fails \\({WHY}\\) on a text that it traced before.*not the texts"):
        traced(tmp_path / "store", Engines(breaks).start)
    assert len(Store(tmp_path / "store").commits) >= AHEAD
    assert Store(tmp_path / "store").set_aside() == []
    traced(tmp_path / "store", Engines(raising([])).start)
    check(tmp_path / "store", [], "")


def test_a_bad_text_that_is_all_that_is_left_is_set_aside(tmp_path: Path) -> None:
    bad = f"{LANG}/{IDS[-1]}"
    last = [shard for shard in planned_shards() if IDS[-1] in shard.text_ids and shard.lang == LANG]
    traced(tmp_path / "store", Engines(raising([])).start, [s for s in planned_shards() if s.key != last[0].key])
    whole = [f"{LANG}/{text_id}" for text_id in last[0].text_ids]
    assert traced(tmp_path / "store", Engines(raising(whole)).start, last).failed == len(whole)
    assert bad in whole
    check(tmp_path / "store", whole, WHY)


def test_an_engine_that_does_not_start_again_ends_the_job_in_one_line(tmp_path: Path) -> None:
    engines = Engines(raising([f"{LANG}/{IDS[TEXTS]}"]))

    @contextmanager
    def start() -> Iterator[StandInEngine]:
        if engines.started:
            raise MoetraceError("vLLM could not start it (no GPU)")
        with engines.start() as engine:
            yield engine

    with pytest.raises(MoetraceError, match=rf"the engine failed \({WHY}\) and does not start again: .*no GPU"):
        traced(tmp_path / "store", start)
    assert Store(tmp_path / "store").commits
    assert verify(tmp_path / "store").claims == []


def test_what_moetrace_finds_wrong_itself_is_no_bad_text(tmp_path: Path) -> None:
    def breaks(_: str, text_id: str) -> None:
        if text_id == IDS[2]:
            raise CaptureError("layer 3: the tap saw nothing")

    engines = Engines(breaks)
    with pytest.raises(CaptureError, match="the tap saw nothing"):
        traced(tmp_path / "store", engines.start)
    assert engines.started == 1
    assert Store(tmp_path / "store").set_aside() == []


def test_the_parts_of_a_shard_stay_within_the_memory_of_the_whole(tmp_path: Path) -> None:
    texts = [f"{LANG}/{IDS[at]}" for at in (1, 6)]
    settings = TraceSettings(max_memory=BYTES * TEXTS)
    assert traced(tmp_path / "store", Engines(raising(texts)).start, settings=settings).failed == 2
    check(tmp_path / "store", texts, WHY)


def test_memory_of_parts_is_that_of_all_that_are_held() -> None:
    class Whole:
        held: dict[str, int] = {}  # noqa: RUF012

        def reserve(self, key: str, size: int, *, wait: bool) -> bool:
            assert wait
            assert key not in self.held
            self.held[key] = size
            return True

        def give_back(self, key: str) -> None:
            self.held.pop(key, None)

    whole = Whole()
    memory = PartsMemory(whole)
    for size, held in ((10, 10), (5, 15), (3, 18)):
        assert memory.reserve("a", size, wait=True)
        assert whole.held == {"a": held}
    memory.give_back("a")
    assert whole.held == {"a": 15}


# Processes that die.


def killed(process: ForkedProcess) -> bool:
    status = process.wait(60)
    assert status in {0, -9}, process.said
    return status == -9


def deaths_until_done(store: Path, deadly: list[str]) -> tuple[int, int]:
    """Trace again and again until a process ends by itself; return how many died, and what that one set aside."""
    for deaths in range(40):
        process = ForkedProcess(JOB, str(store), deadly)
        if not killed(process):
            return deaths, json.loads(process.said.splitlines()[1])["failed"]
    raise AssertionError("it never ends")


@pytest.mark.parametrize("at", [0, 5, TEXTS - 1])
def test_a_text_that_kills_its_process_is_set_aside_when_it_alone_killed_two(tmp_path: Path, at: int) -> None:
    deadly = [f"{LANG}/{IDS[at]}"]
    store = tmp_path / "store"
    deaths, failed = deaths_until_done(store, deadly)
    assert failed == 1
    assert deaths <= 2 + (TEXTS - 1).bit_length() + 1, "beside others, alone, a half a time, the text twice"
    check(store, deadly, TWO_DIED)


def test_the_rest_of_the_run_is_committed_before_the_search(tmp_path: Path) -> None:
    store, deadly = tmp_path / "store", [f"{LANG}/{IDS[0]}"]
    for _ in range(3):  # of what was under way beside it, some is traced after it the second time, before it the third
        assert killed(ForkedProcess(JOB, str(store), deadly))
    (bad,) = (shard.key for shard in planned_shards() if shard.lang == LANG and shard.number == 0)
    there = {commit.key for commit in Store(store).commits}
    assert made_shards().keys() - there == {bad}


def test_two_texts_of_a_shard_that_kill_are_both_found(tmp_path: Path) -> None:
    deadly = [f"{LANG}/{IDS[at]}" for at in (2, 3)]
    deaths, failed = deaths_until_done(tmp_path / "store", deadly)
    assert failed == 2
    assert deaths <= 2 * (2 + (TEXTS - 1).bit_length() + 1)
    check(tmp_path / "store", deadly, TWO_DIED)


def test_kills_by_hand_wherever_they_hit_set_nothing_aside(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for after in (3, 0, 2, 9, 1, 5, 4, 7, 13, 6, 2, 8):
        process = ForkedProcess(JOB, str(store), [], 0.0, after)
        assert killed(process) or "failed" in process.said
    assert deaths_until_done(store, [])[1] == 0
    check(store, [], "")


def test_a_text_that_was_alone_in_one_death_is_traced_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    deadly = [f"{LANG}/{IDS[1]}"]
    record = attempts_of(store)
    for _ in range(40):
        assert killed(ForkedProcess(JOB, str(store), deadly))
        found = record()
        if found and any((part.texts, part.deaths) == (1, 1) for part in found.after_death().parts):
            break
    assert deaths_until_done(store, [])[1] == 0, "it was killed by hand, as often as that was"
    check(store, [], "")


def attempts_of(store: Path) -> Callable[[], AttemptsRecord | None]:
    path = store / layout.attempts_path("run", LANG, 0)

    def read() -> AttemptsRecord | None:
        return AttemptsRecord.from_json(path.read_text(), str(path)) if path.exists() else None

    return read


def test_two_processes_share_a_run_with_a_deadly_text(tmp_path: Path) -> None:
    store, deadly = tmp_path / "store", [f"{LANG}/{IDS[6]}"]
    running = [ForkedProcess(JOB, str(store), deadly, 0.001) for _ in range(2)]
    deaths, failed, deadline = 0, [], time.monotonic() + 60
    while running:
        assert time.monotonic() < deadline
        process = running.pop(0)
        try:
            died = process.wait(0.05) == -9
        except subprocess.TimeoutExpired:
            running.append(process)
            continue
        assert died or process.returncode == 0, process.said
        deaths += died
        if died:
            running.append(ForkedProcess(JOB, str(store), deadly, 0.001))
        else:
            failed.append(json.loads(process.said.splitlines()[1])["failed"])
    assert sorted(failed) == [0, 1]
    assert deaths <= 2 + (TEXTS - 1).bit_length() + 2
    check(store, deadly, TWO_DIED)


def test_a_text_that_raises_and_one_that_kills_are_both_set_aside(tmp_path: Path) -> None:
    """The first is found again by every process: what raised is no evidence that outlives its process."""
    store, deadly = tmp_path / "store", [f"{LANG}/{IDS[6]}"]
    bad = [f"{LANG}/{IDS[1]}"]
    while killed(process := ForkedProcess(JOB, str(store), deadly, 0.0, -1, bad)):
        record = attempts_of(store)()
        assert record is None or {part.reason for part in record.parts} <= {None, TWO_DIED}
    assert json.loads(process.said.splitlines()[1])["failed"] == 2
    (record,) = Store(store).set_aside()
    assert [(text.text_id, text.reason) for text in record.texts] == [
        (IDS[1], f"could not be traced: {WHY}"),
        (IDS[6], f"could not be traced: {TWO_DIED}"),
    ]
    assert verify(store).problems == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[" * 100_000, json.dumps({"run": "run"}), "other texts", "another record"],
    ids=["empty", "open", "deep", "unsealed", "other texts", "another record"],
)
def test_a_record_of_attempts_that_is_none_is_as_if_it_were_not_there(tmp_path: Path, content: str) -> None:
    store = tmp_path / "store"
    path = store / layout.attempts_path("run", LANG, 0)
    with StoreWriter(store, WORLD.record) as writer:
        good = writer.attempts.take_up(LANG, 0, TEXTS, died=True)
    aside = replace(good.parts[0], texts=1, reason="I say so")
    if content == "other texts":
        content = replace(good, parts=(aside,)).to_json()
    elif content == "another record":
        content = replace(good, run_sha256="0" * 64, parts=(aside, replace(good.parts[0], first=1, texts=7))).to_json()
    path.write_text(content)
    assert traced(store, Engines(raising([])).start).failed == 0
    check(store, [], "")


def test_shards_in_parts_are_joined_as_they_were() -> None:
    from moetrace.tracer.runs.parts import joined
    from tests.support.stores import texts_of

    rng = np.random.default_rng(0)
    for shard in made_shards().values():
        if len(shard.seqs) < 3:
            continue
        whole = replace(
            shard,
            texts=[f"after {text_id}" for text_id in shard.text_ids],
            token_positions=shard.positions() + 3,
            generated=np.minimum(shard.lengths, 2).astype(np.int32),
        )
        cuts = [0, *sorted(rng.choice(np.arange(1, len(shard.seqs)), 2, replace=False).tolist()), len(shard.seqs)]
        starts = np.cumsum(whole.lengths) - whole.lengths
        parts = []
        for first, end in pairwise(cuts):
            part = texts_of(whole, first, end - first)
            tokens = slice(int(starts[first]), int(starts[first]) + part.tokens)
            parts.append(replace(part, texts=whole.texts[first:end], token_positions=whole.token_positions[tokens]))
        again = joined(parts, [])
        for name in vars(whole):
            was, now = getattr(whole, name), getattr(again, name)
            if isinstance(was, np.ndarray):
                assert was.dtype == now.dtype, name
                np.testing.assert_array_equal(was, now, name)
            else:
                assert list(was) == list(now) if name in {"text_ids", "texts", "set_aside"} else was == now, name


def test_what_vllm_raises_is_told_in_its_first_line(tmp_path: Path) -> None:
    traced(tmp_path / "store", Engines(raising([f"{LANG}/{IDS[0]}"])).start)
    (record,) = Store(tmp_path / "store").set_aside()
    assert re.fullmatch(f"could not be traced: {WHY}", record.texts[0].reason)


def test_what_is_noted_of_shards_that_others_committed_goes_with_the_end_of_the_run(tmp_path: Path) -> None:
    """A worker that is started again asks only for what is left, and another's death may be noted of more than that."""
    store, engines = tmp_path / "store", Engines(raising([]))
    first, *rest = planned_shards()
    traced(store, engines.start, [first])
    with StoreWriter(store, WORLD.record, sizes()) as writer:
        writer.attempts.take_up(first.lang, first.number, first.texts, died=True)
    assert list((store / layout.ATTEMPTS).rglob("*.json"))
    traced(store, engines.start, rest)
    check(store, [], "")

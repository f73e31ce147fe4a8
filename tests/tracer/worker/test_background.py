"""What is given to a thread is done in order, and what it raises is heard by who gives it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from moetrace.tracer.worker.background import AtOnce, InBackground


def raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("make", [AtOnce, lambda: InBackground(begin=lambda: None)])
def test_work_is_done_in_order(make: Any) -> None:
    work, done = make(), []
    for number in range(100):
        work.do(done.append, number)
    work.wait()
    assert done == list(range(100))
    work.close()


def test_the_giver_goes_on_and_waits_until_it_is_enough() -> None:
    work, held, done = InBackground(begin=lambda: None), threading.Semaphore(0), []
    for number in range(3):
        work.do(lambda number=number: (held.acquire(), done.append(number)))
    assert not done
    held.release()
    work.wait(lambda: bool(done))
    assert done == [0]
    held.release(2)
    work.wait()
    assert done == [0, 1, 2]
    work.close()


def test_a_thread_begins_before_its_first_work() -> None:
    seen: list[tuple[str, str]] = []

    def note(what: str) -> None:
        seen.append((what, threading.current_thread().name))

    work = InBackground(begin=lambda: note("begin"))
    work.do(note, "work")
    work.close()
    assert [what for what, _ in seen] == ["begin", "work"]
    assert len({name for _, name in seen}) == 1
    assert seen[0][1] != threading.current_thread().name


def test_what_work_raises_is_raised_once() -> None:
    work, done = InBackground(begin=lambda: None), []
    work.do(raising, ValueError("mine"))
    with pytest.raises(ValueError, match="mine"):
        work.wait()
    work.do(done.append, 1)
    work.wait()
    assert done == [1]
    work.close()


def test_what_work_raised_is_heard_with_the_next() -> None:
    work, done = InBackground(begin=lambda: None), threading.Event()
    work.do(raising, ValueError("mine"))
    work._given[0].add_done_callback(lambda _: done.set())
    assert done.wait(60)
    with pytest.raises(ValueError, match="mine"):
        work.do(print)
    work.close()

"""Masks of strangers."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

from tests.support.masks import mask_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.hostile.case import Case

SQL = "x' group by all; copy (select 1) to 'loot.csv'; --"


def _good() -> dict[str, Any]:
    return mask_of([(1, 0), (2, 3)], moe_layers=(1, 2, 5), num_experts=8, top_k=2, target="deu_Latn")


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Case, Path], None]:
    def build(_: Case, path: Path) -> None:
        mask = copy.deepcopy(_good())
        change(mask)
        path.write_text(json.dumps(mask))

    return build


def _text(text: str | bytes) -> Callable[[Case, Path], None]:
    return lambda _, path: path.write_bytes(text.encode() if isinstance(text, str) else text) and None


def _huge(_: Case, path: Path) -> None:
    path.touch()
    os.truncate(path, 100 << 30)


def _repeated(_: Case, path: Path) -> None:
    text = json.dumps(_good())
    path.write_text(text[:-1] + f', "format": {json.dumps(SQL)}}}')


MASKS: dict[str, Callable[[Case, Path], object]] = {
    "deep": _text("[" * 100_000 + "]" * 100_000),
    "seventy_deep": _changed(lambda mask: mask["strategy"]["parameters"].update(a=_nested(70))),
    "a_key_twice": _repeated,
    "no_json": _text("{"),
    "empty": _text(""),
    "a_list": _text("[]"),
    "no_unicode": _text(b'{"format": "\xff"}'),
    "a_hundred_gigabytes": _huge,
    "a_pipe": lambda _, path: os.mkfifo(path),
    "a_device": lambda _, path: path.symlink_to("/dev/zero"),
    "a_loop": lambda _, path: path.symlink_to(path),
    "missing": lambda _, path: path.unlink(missing_ok=True),
    "nan": _text(json.dumps(_good())[:-1] + ', "more": NaN}'),
    "a_float_too_large": _text(json.dumps(_good()).replace('"version": 1', '"version": 1e999')),
    "a_name_that_is_sql": _changed(lambda mask: mask["strategy"].update(target=SQL + "\0")),
    "a_terminal_is_told": _changed(lambda mask: mask["model"].update(id="\x1b]0;owned\x07\x1b[2J")),
    "a_long_text": _changed(lambda mask: mask["model"].update(id="x" * 100_000)),
    "an_expert_of_2_to_the_70": _changed(lambda mask: mask["experts"][0].update(expert=2**70)),
    "a_negative_layer": _changed(lambda mask: mask["experts"][0].update(layer=-1)),
    "an_expert_twice": _changed(lambda mask: mask["experts"].append(dict(mask["experts"][0]))),
    "a_float_for_a_layer": _changed(lambda mask: mask["experts"][0].update(layer=1.0)),
    "a_summary_that_lies": _changed(lambda mask: mask["summary"].update(experts=10**9)),
    "no_experts": _changed(lambda mask: mask.update(experts=[])),
    "layers_for_ever": _changed(lambda mask: mask["model"].update(moe_layers=list(range(100_000)))),
}


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value

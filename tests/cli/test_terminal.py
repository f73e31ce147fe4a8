"""Names of strangers on a terminal: shown, never obeyed."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moetrace.cli.main import run
from moetrace.cli.table import aligned
from moetrace.cli.terminal import PrintableFormatter, json_document, one_line, printable
from tests.support.commands import failure
from tests.support.stores import make_record, make_world, write_world

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "org/model[/old] \x1b[2J\x07\x9b31m \u202eevil\u2028line\x7f"
OBEYED = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *"\u2028\u2029\u202a\u202e\u2066\u2069"]


def obeyed(text: str) -> list[str]:
    return [letter for letter in text if letter in OBEYED and letter != "\n"]


@pytest.mark.parametrize("letter", OBEYED)
def test_every_character_that_a_terminal_obeys_is_shown(letter: str) -> None:
    shown = printable(f"a{letter}b")
    assert shown == f"a\\x{ord(letter):02x}b" if ord(letter) < 256 else shown == f"a\\u{ord(letter):04x}b"


def test_other_characters_are_as_they_are() -> None:
    text = "caf\u00e9 \u4e2d\u6587 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 [bold] \\x1b \N{SNOWMAN}"
    assert printable(text) == text


@given(st.text())
def test_a_message_is_one_printable_line(text: str) -> None:
    assert not obeyed(one_line(text))
    assert "\n" not in one_line(text)
    one_line(text).encode()


def test_a_message_keeps_its_hint_and_loses_the_excerpt_of_a_query() -> None:
    assert one_line("catalog: no x!\nDid you mean y?\n\nLINE 1: select\n   ^") == "catalog: no x! Did you mean y?"
    long = one_line("a" * 100000 + "the end")
    assert len(long) < 2000
    assert long.endswith("the end")


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_is_the_same_value_and_printable(value: Any) -> None:
    document = json_document(value)
    assert not obeyed(document)
    assert json.loads(document) == value


def test_a_table_shows_names_and_values() -> None:
    text = aligned(["a\x1b[1m", "b"], [["x\ny\r", 1], [HOSTILE, 22]])
    assert not obeyed(text)
    assert len(text.splitlines()) == 4
    assert len({len(line) for line in text.splitlines()[1:]}) == 1


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "store"
    record = make_record()
    write_world(path, make_world(1, replace(record, model={**record.model, "id": HOSTILE})))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "STORE"),
        ("ls", "STORE", "--json"),
        ("sql", "STORE", "select model_id from runs"),
        ("sql", "STORE", "select 1 as \"a\x1b[2J\", 'x' || chr(27) || chr(155) as b"),
        ("export", "rise", "STORE", "--target", "swh_Latn", "--budget", "5", "--min-count", "0", "--format", "axolotl"),
        ("export", "top-k", "STORE", "--budget", "5", "--min-count", "0", "--explain", "--format", "esft"),
    ],
)
def test_commands_print_nothing_that_is_obeyed(
    words: tuple[str, ...], hostile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word.replace("STORE", str(hostile)) for word in words]) == 0
    captured = capsys.readouterr()
    assert captured.out
    assert not obeyed(captured.out + captured.err)


def test_a_models_name_is_shown_whole(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", str(hostile)]) == 0
    assert "run: org/model[/old] \\x1b[2J\\x07\\x9b31m" in capsys.readouterr().out
    assert run(["ls", str(hostile), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["model"] == HOSTILE


def test_a_models_name_stays_in_the_comment_of_the_yaml(hostile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = pytest.importorskip("yaml")
    words = [
        "export",
        "rise",
        str(hostile),
        "--target",
        "swh_Latn",
        "--budget",
        "5",
        "--min-count",
        "0",
        "--format",
        "axolotl",
    ]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("# 5 experts of org/model")
    assert set(yaml.safe_load(printed)) == {"weight_decay", "unfrozen_parameters"}


def test_errors_and_wrong_usage_are_printable(
    hostile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = failure(capsys, "export", "rise", hostile, "--target", "swh\x1b[31m\u202e")
    assert "'swh\\x1b[31m\\u202e'" in line
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_, **__: False)
    assert run(["\x07\x9b"]) == 2
    assert not obeyed(capsys.readouterr().err)


def test_what_is_logged_is_printable() -> None:
    record = logging.LogRecord("moetrace", logging.WARNING, "", 0, "run %s\nmore", (HOSTILE,), None)
    text = PrintableFormatter("%(name)s: %(message)s").format(record)
    assert not obeyed(text)
    assert text.startswith("moetrace: run org/model[/old] \\x1b[2J")
    assert text.endswith("\nmore")


def test_progress_prints_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from moetrace.cli.progress import ImportBar, TraceBar, TrainingBar

    for bar in (TraceBar, TrainingBar):
        with bar() as progress:
            progress.stage("reading org/model[/old] \x1b[2J")
        printed = capsys.readouterr().err
        assert "reading org/model[/old] \\x1b[2J" in printed
    with ImportBar() as progress:
        progress.stage("reading [/old]", 3)

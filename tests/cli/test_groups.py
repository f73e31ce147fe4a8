"""Commands that do not exist, examples of those that do, and numbers that are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from moetrace.cli.main import COMMANDS, moetrace, run
from moetrace.cli.options import FINITE, FiniteRange

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(moetrace)
    for name in COMMANDS:
        command = moetrace.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found
                yield f"{name} {inner}", found
        yield name, command


ALL = dict(commands())
FLOATS = [
    (name, option.opts[-1])
    for name, command in ALL.items()
    for option in command.params
    if isinstance(option.type, click.types.FloatParamType)
]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["tarce"], "did you mean trace"),
        (["expotr"], "did you mean export"),
        (["export", "rize"], "did you mean rise"),
        (["export", "topk"], "did you mean top-k"),
        (["qqqq"], "there are: demo, inspect, trace"),
        (["export", "qqqq"], "there are: rise, gap"),
    ],
)
def test_an_unknown_command_gets_a_hint(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert f"No such command '{words[-1]}'; {hint}" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    examples = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"  moetrace {name}")]
    assert examples
    for example in examples:
        first, *words = example.split()[1:]
        command = ALL[f"{first} {words[0]}" if words and f"{first} {words[0]}" in ALL else first]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known


def test_there_are_numbers_to_check() -> None:
    assert {("train", "--learning-rate"), ("trace", "--temperature"), ("export rise", "--alpha")} < set(FLOATS)
    assert ("export task", "--tau") in FLOATS
    assert ("export top-p", "--p") in FLOATS


@pytest.mark.parametrize(("name", "option"), FLOATS)
@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_no_option_takes_what_is_no_finite_number(
    name: str, option: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*name.split(), f"{option}={number}"]) == 2
    printed = capsys.readouterr().err
    assert f"Invalid value for '{option}'" in printed
    assert "Traceback" not in printed


def test_finite_numbers_are_taken() -> None:
    assert FINITE.convert("-1.5e3", None, None) == -1500
    assert FiniteRange(0, 1, min_open=True).convert("1", None, None) == 1
    with pytest.raises(click.BadParameter, match="range"):
        FiniteRange(0, 1, min_open=True).convert("0", None, None)
    with pytest.raises(click.BadParameter, match="not a finite number"):
        FiniteRange(0).convert("inf", None, None)

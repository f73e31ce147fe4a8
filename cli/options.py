"""Options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.store.format import layout

if TYPE_CHECKING:
    from collections.abc import Callable

STORE = click.argument("store")  # a folder or a URL
RUN = click.option("--run", metavar="NAME", help="Which run of the store; needed only where it has several.")


class _Finite(click.types.FloatParamType):
    """A number that is neither infinite nor NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; a usage error for what is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class FiniteRange(_Finite, click.FloatRange):
    """A finite number within bounds."""


FINITE = _Finite()


def output(help_text: str, *, required: bool = False) -> Callable[..., Any]:
    """Return the option for the file that a command writes."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        required=required,
        help=help_text,
    )


SHARD_TOKENS = click.option(
    "--shard-tokens",
    type=click.IntRange(min=1),
    default=layout.SHARD_TOKENS,
    show_default=True,
    metavar="N",
    help="Tokens of a shard.",
)


def corpus_selection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which languages and texts of a corpus are taken, and what of a row is a text."""
    for option in (
        click.option("--sample-seed", type=int, default=0, show_default=True, metavar="S", help="Seed of --sample."),
        click.option(
            "--sample",
            type=click.IntRange(min=1),
            metavar="N",
            help="N texts drawn from those that all chosen languages have.",
        ),
        click.option(
            "--id-template", metavar="T", help="Columns that make a text's id, as in '{link}#{question_number}'."
        ),
        click.option(
            "--text-template", metavar="T", help="Columns that make a text, as in '{flores_passage} {question}'."
        ),
        click.option(
            "--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N texts of each language."
        ),
        click.option("--lang", "languages", multiple=True, metavar="L", help="Only this language; may be repeated."),
    ):
        command = option(command)
    return command


def sampling_and_prompt(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how the model goes on after a text, and what prompt is made of one."""
    for option in (
        click.option(
            "--chat-template",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Jinja template in place of the tokenizer's own (with --chat).",
        ),
        click.option("--system", metavar="TEXT", help="System prompt before each text (with --chat)."),
        click.option("--chat", is_flag=True, help="Give each text as a user's message in the model's chat template."),
        click.option(
            "--seed",
            type=int,
            default=0,
            show_default=True,
            help="Of sampling; a text's draws depend on it alone.",
        ),
        click.option("--top-p", type=FiniteRange(0, 1, min_open=True), default=1.0, show_default=True),
        click.option("--temperature", type=FiniteRange(min=0), default=0.0, show_default=True, help="0 is greedy."),
    ):
        command = option(command)
    return command

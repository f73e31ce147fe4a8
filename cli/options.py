"""Options that several commands share."""

from __future__ import annotations

import math
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moetrace.cli import completion
from moetrace.store.format import layout

if TYPE_CHECKING:
    from collections.abc import Callable

STORE = click.argument("store")  # a folder or a URL
RUN = click.option(
    "--run",
    metavar="NAME",
    help="Which run of the store; needed only where it has several.",
    shell_complete=completion.runs,
)
OTHER_STORE = click.argument("other", required=False, metavar="[OTHER_STORE]")
# For commands that take one run, or lay two side by side.
RUNS = click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="NAME",
    help="Which run of the store; needed only where it has several. Twice: the second less the first.",
    shell_complete=completion.runs,
)


def two_runs(
    store: str, other: str | None, runs: tuple[str, ...]
) -> tuple[tuple[str, str | None], tuple[str, str | None]] | None:
    """Return the two runs that STORE, OTHER_STORE and --run name, each a store and a name; None: one run is meant.

    A name given once is that of the run in both stores; none, that each store has one run.
    """
    if len(runs) > 2:
        raise click.UsageError(f"{len(runs)} runs: name one, or two to lay side by side")
    if not other and len(runs) < 2:
        return None
    first, second = runs if len(runs) == 2 else (*runs, *runs) or (None, None)
    return (store, first), (other or store, second)


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


def sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how the model goes on after a text."""
    for option in (
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


def prompting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what prompt is made of a text; the command gets a `PromptSettings` as `prompt`."""

    @wraps(command)
    def with_prompt(*args: Any, chat: bool, system: str | None, chat_template: Path | None, **options: Any) -> Any:
        from moetrace.tracer.plan.prompts import PromptSettings

        template = chat_template.read_text(encoding="utf-8") if chat_template else None
        return command(*args, prompt=PromptSettings(chat, system, template), **options)

    found: Any = with_prompt
    for option in (
        click.option(
            "--chat-template",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Jinja template in place of the tokenizer's own (with --chat).",
        ),
        click.option("--system", metavar="TEXT", help="System prompt before each text (with --chat)."),
        click.option("--chat", is_flag=True, help="Give each text as a user's message in the model's chat template."),
    ):
        found = option(found)
    return found  # type: ignore[no-any-return]


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how vLLM runs the model; the command gets those of `EngineSettings` as `engine`."""

    @wraps(command)
    def with_engine(
        *args: Any,
        max_model_len: int | None,
        max_num_batched_tokens: int,
        dtype: str,
        tensor_parallel_size: int,
        kv_cache_gib: float | None,
        compiled: bool,
        **options: Any,
    ) -> Any:
        engine = {
            "max_model_len": max_model_len,
            "max_num_batched_tokens": max_num_batched_tokens,
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "kv_cache_gib": kv_cache_gib,
            "eager": not compiled,
        }
        return command(*args, engine=engine, **options)

    found: Any = with_engine
    for option in (
        click.option("--revision", metavar="R", help="Revision of the model on its hub."),
        click.option(
            "--compile", "compiled", is_flag=True, help="Let vLLM compile the model: slow to start, faster on a GPU."
        ),
        click.option("--kv-cache-gib", type=FiniteRange(min=0, min_open=True), help="KV cache.  [default: 1 on a CPU]"),
        click.option("--tensor-parallel-size", type=click.IntRange(min=1), default=1, show_default=True, metavar="N"),
        click.option(
            "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
        ),
        click.option(
            "--max-num-batched-tokens",
            type=click.IntRange(min=32),
            default=4096,
            show_default=True,
            metavar="N",
            help="Tokens of one engine step; longer texts are prefilled in chunks.",
        ),
        click.option(
            "--max-model-len",
            type=click.IntRange(min=2),
            metavar="N",
            help="Window in tokens.  [default: the model's]",
        ),
    ):
        found = option(found)
    return found  # type: ignore[no-any-return]

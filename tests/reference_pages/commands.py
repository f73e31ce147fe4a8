"""docs/reference/commands.md: every command of `moetrace`, as click knows it."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

import click

from moetrace.cli.main import FAILED, GROUPS, INTERRUPTED, USAGE, moetrace
from tests.reference_pages.markdown import cell, code_cell, escaped, table

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = {
    "MOETRACE_CACHE": "folder in which tokenised corpora are kept until their trace is whole; without it, `moetrace` "
    "in `XDG_CACHE_HOME` or `~/.cache`",
    "MOETRACE_DEBUG": "1: an error is printed with its traceback, as `--verbose` does",
    "MOETRACE_FAULT": "name of a fault point at which the process kills itself: for tests of what a kill leaves behind",
    "MOETRACE_FLUSH_SECONDS": "`vllm serve`: how long finished requests wait to be written, at most; 60",
    "MOETRACE_LANG": "`vllm serve`: the language of requests that name none; `und`",
    "MOETRACE_PROFILES": "`vllm serve`: 0: no router probabilities; 1",
    "MOETRACE_RUN": "`vllm serve`: the run's name; the model's name and `-live`",
    "MOETRACE_SELF_CHECK": "`vllm serve`: 0: the first step is not compared with the model's rule; 1",
    "MOETRACE_SHARD_TOKENS": "`vllm serve`: tokens of a language that are written as a shard; 32768",
    "MOETRACE_STEER": "`vllm serve`: files of interventions, with commas between them; see [Steering](../steering.md)",
    "MOETRACE_STEER_DEFAULT": "`vllm serve`: the intervention of requests that name none, or `none`; the first file",
    "MOETRACE_STORE": "`vllm serve`: the store that requests are recorded in; see [Recording](../recording.md)",
    "MOETRACE_WEIGHT_PRECISION": "`vllm serve`: the grid that gate weights are rounded to: f16, bf16 or f32; f16",
}
OTHERS = {
    "_MOETRACE_COMPLETE": "`bash_source`, `zsh_source` or `fish_source`: prints completion for that shell",
    "HF_HOME, HF_TOKEN, HF_HUB_OFFLINE": "those of the Hugging Face libraries, which find models and `hf:` corpora",
    "AWS_PROFILE, AWS_ENDPOINT_URL, ...": "those of boto, for stores at `s3://`",
    "TMPDIR": "where token ids wait while a corpus is planned, and the ids of its texts",
}
_STATED = re.compile(r"\s*\[default: (?P<rule>[^]]+)\]")
INTRODUCTION = (
    "What `moetrace COMMAND --help` prints, on one page. Results go to stdout, progress and messages to stderr, so "
    "that every command can stand in a pipe. [Troubleshooting](../troubleshooting.md) has what each error means."
)
_CHOICES = re.compile(r"\[(?P<names>[^]]*\|[^]]*)\]")
EXIT_CODES = {
    0: "done",
    FAILED: "failed, or found something bad: `verify` with problems, `trace` or `steer` with texts that failed",
    USAGE: "wrong usage: an unknown option, a value that it cannot have",
    INTERRUPTED: "interrupted; shards that were finished are in the store",
}


def page() -> str:
    """Return the page."""
    root = click.Context(moetrace, info_name="moetrace")
    parts = [
        "# Commands",
        INTRODUCTION,
        table(["command", "what it does"], _contents(root)),
        "## Options before the command",
        _options(moetrace, root),
        "## Exit codes",
        table(["code", "meaning"], ([str(code), escaped(meaning)] for code, meaning in EXIT_CODES.items())),
        "## Environment variables",
        table(["variable", "what it does, and its default"], _environment()),
    ]
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        for name in names:
            parts += _described(moetrace.get_command(root, name), root, name)
    return "\n\n".join(parts) + "\n"


def _contents(root: click.Context) -> Iterator[list[str]]:
    for title, names in GROUPS.items():
        for name in names:
            command = moetrace.get_command(root, name)
            yield [f"[`{name}`](#moetrace-{name})", f"{title}: {cell(command.short_help if command else '')}"]


def _environment() -> Iterator[list[str]]:
    for name, meaning in {**ENVIRONMENT, **OTHERS}.items():
        yield [", ".join(code_cell(one) if one != "..." else one for one in name.split(", ")), meaning]


def _described(command: click.Command | None, parent: click.Context, name: str) -> Iterator[str]:
    if command is None:
        raise LookupError(name)
    context = click.Context(command, info_name=name, parent=parent)
    nested = isinstance(command, click.Group)
    yield f"{'###' if parent.parent is None else '####'} {context.command_path}"
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    yield from _help(command.help or "")
    if options := _options(command, context):
        yield options
    if nested:
        for inner in command.list_commands(context):
            yield from _described(command.get_command(context, inner), context, inner)


def _help(text: str) -> Iterator[str]:
    """Yield paragraphs; those that click must not wrap, after \\b, are examples."""
    for block in inspect.cleandoc(text).split("\n\n"):
        unwrapped, _, example = block.rpartition("\b\n")
        if example and "\b" in block:
            yield f"```text\n{inspect.cleandoc(example)}\n```"
        elif not unwrapped:
            yield escaped(block.strip())


def _argument(argument: click.Argument, context: click.Context) -> list[str]:
    kind = argument.type
    choices = ", ".join(code_cell(str(choice)) for choice in kind.choices) if isinstance(kind, click.Choice) else ""
    notes = ["required" if argument.required else "may be left out", "several" if argument.nargs != 1 else "", choices]
    return [code_cell(argument.make_metavar(context).strip("[].")), "", "; ".join(note for note in notes if note)]


def _options(command: click.Command, context: click.Context) -> str:
    rows = [_argument(each, context) for each in command.params if isinstance(each, click.Argument)]
    rows += [_option(each, context) for each in command.params if isinstance(each, click.Option) and not each.hidden]
    return table(["argument or option", "default", "what it is"], rows) if rows else ""


def _option(option: click.Option, context: click.Context) -> list[str]:
    record, _ = option.get_help_record(context) or (option.opts[0], "")
    # A | would have to be escaped in a table, which not every renderer undoes inside code.
    names = _CHOICES.sub(lambda found: f"{{{found['names'].replace('|', ',')}}}", record).replace("|", " or ")
    extra = option.get_help_extra(context)
    words = option.help or ""
    stated = _STATED.search(words)  # where the default is no value but a rule
    default = cell(stated["rule"]) if stated else code_cell(extra.get("default", ""))
    words = _STATED.sub("", words)
    notes = ["required" if option.required else "", extra.get("range", "")]
    if option.multiple and "may be repeated" not in words:
        notes.append("may be repeated")
    noted = cell("; ".join(note for note in notes if note))
    return [code_cell(names), default, f"{cell(words)}{f' ({noted})' if noted else ''}".strip()]

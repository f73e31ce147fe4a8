"""The `moetrace` program: parse, call, print. Commands live one a file and are imported when they are called."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

import click

from moetrace.cli.failures import show_failure, show_usage
from moetrace.cli.groups import SuggestingGroup
from moetrace.cli.terminal import PrintableFormatter

GROUPS = {  # in the order in which a newcomer meets them
    "Trace": {
        "demo": "moetrace.cli.demo:demo",
        "inspect": "moetrace.cli.inspection:inspect",
        "trace": "moetrace.cli.trace:trace",
        "import": "moetrace.cli.importing:import_traces",
    },
    "Look": {
        "ls": "moetrace.cli.ls:ls",
        "views": "moetrace.cli.views:views",
        "sql": "moetrace.cli.sql:sql",
        "report": "moetrace.cli.report:report",
        "plot": "moetrace.cli.plot:plot",
    },
    "Choose": {"export": "moetrace.cli.export:export"},
    "Use": {
        "train": "moetrace.cli.train:train",
        "merge": "moetrace.cli.merge:merge",
        "steer": "moetrace.cli.steer:steer",
        "evaluate": "moetrace.cli.evaluate:evaluate",
    },
    "Keep": {
        "verify": "moetrace.cli.verify:verify",
        "compact": "moetrace.cli.compact:compact",
        "upgrade": "moetrace.cli.upgrade:upgrade",
        "rm": "moetrace.cli.rm:rm",
    },
}
COMMANDS = {name: where for group in GROUPS.values() for name, where in group.items()}

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class LazyGroup(SuggestingGroup):
    """A group whose commands are modules, imported when they are needed: `moetrace export` must not wait for vLLM."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's interface
        """Return the commands in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command is for, by what a person is about to do."""
        widest = max(map(len, COMMANDS))
        for title, names in GROUPS.items():
            commands = ((name.ljust(widest), self.get_command(ctx, name)) for name in names)
            with formatter.section(title):
                formatter.write_dl([(name, command.short_help or "") for name, command in commands if command])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's interface
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name]} is not a command")
        return command


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from moetrace.cli.version import version_lines

        click.echo("\n".join(version_lines()))
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show what a report of a fault should name: versions, processor, GPU.",
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Log what is being done; an error with its traceback, as MOETRACE_DEBUG=1 does.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but results, warnings and errors.")
def moetrace(verbose: bool, quiet: bool) -> None:  # noqa: ARG001  whoever says something asks for it
    """Which experts does a Mixture-of-Experts language model use for each language, and what follows from it.

    Start with `moetrace demo`: the whole pipeline on a bundled model and corpus, without a network.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler])


def main(args: list[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 failed or found bad, 2 wrong usage, 130 interrupted."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run the program and return its exit code; whatever is raised, it is one line on stderr."""
    try:
        result: Any = moetrace.main(args=args, prog_name="moetrace", standalone_mode=False)
    except click.ClickException as error:
        show_usage(error)
        return error.exit_code if isinstance(error, click.UsageError) else FAILED
    except (KeyboardInterrupt, click.Abort):
        click.echo("moetrace: interrupted; shards that were finished are in the store", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: not an error of ours.
        sys.stderr.close()
        return 0
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  a panic of a library in Rust is no Exception
        show_failure(error)
        return FAILED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()

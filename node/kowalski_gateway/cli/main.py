"""`kowalski`: what a person types. This file answers --help and the shell's completion, quickly.

Commands are loaded when they are called: `--help` prints the table in `catalogue` and imports
nothing that talks to a node or draws a table. Every error ends here, as `error [code]: sentence`
and the command that mends it on stderr, or as `{"error": ...}` on stdout with --json, and as an
exit code: 0 ok, 1 the task or check failed, 2 usage, 3 no node.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

import click

from .catalogue import COMMANDS, SECTIONS, TO_COME
from .settings import shared_options
from .wording import safe_lines

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
NEAR: Final = 0.75
"""How alike a word and a command are that it may have been meant for, from 0 to 1: one letter
more, less, or out of place in a word of four."""


class NotBuilt(click.UsageError):
    """A command that the contract names and this release lacks."""


class Kowalski(click.Group):
    """The command group: names and one-line helps from the catalogue, the rest on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"{__package__}.{entry.module}")
        return cast("click.Command", getattr(module, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in TO_COME:
            raise NotBuilt(f"'kowalski {args[0]}' is not built in this release.", ctx)
        if args[0] not in COMMANDS:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, 1, NEAR)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section in SECTIONS:
            rows = [
                (name.ljust(width), entry.summary)
                for name, entry in COMMANDS.items()
                if entry.section == section
            ]
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nkowalski COMMAND --help shows a command's options and examples.\n")


def build() -> Kowalski:
    """The command group with its options."""
    return Kowalski(
        "kowalski",
        help="Talks to the Kowalski node on this device: submits work and shows the cluster.",
        params=[
            *shared_options(),
            click.Option(
                ["--version"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_print_version,
                help="Print the release and exit.",
            ),
        ],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        no_args_is_help=True,
    )


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from kowalski_node import __version__

        click.echo(f"kowalski {__version__}")
        ctx.exit()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    as_json = "--json" in arguments
    try:
        code: Any = build().main([*arguments], "kowalski", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_USAGE
    except click.ClickException as error:
        _tell_usage(error, as_json)
        return EXIT_USAGE
    except click.Abort:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough; the interpreter must not complain at its last flush.
        sys.stdout = None
        return EXIT_FAILED
    except OSError as error:
        return _tell_system(error, as_json)
    except Exception as error:  # guard: for `Problem`, imported late; others are raised
        from kowalski_protocol.errors import Problem

        if not isinstance(error, Problem):
            raise
        from .screen import tell_problem

        tell_problem(error, as_json)
        unreachable = error.code in ("node_unreachable", "bad_answer")
        return EXIT_UNREACHABLE if unreachable else EXIT_FAILED
    return code if isinstance(code, int) else 0


def _tell_system(error: OSError, as_json: bool) -> int:
    """Says why the output can't be written, or which file failed us; others are our mistakes."""
    from kowalski_protocol.errors import Problem

    from .screen import WRITE_CODES, cannot_write, tell_problem

    if error.filename is not None:
        tell_problem(Problem("bad_request", f"{error.filename}: {error.strerror}."), as_json)
    elif error.errno in WRITE_CODES:
        sys.stdout = None  # as for a closed pipe; and there is no place for a document
        tell_problem(cannot_write("The output", error), as_json=False)
    else:
        raise error
    return EXIT_FAILED


def _tell_usage(error: click.ClickException, as_json: bool) -> None:
    code = "not_supported" if isinstance(error, NotBuilt) else "bad_request"
    if as_json:
        import json

        click.echo(json.dumps({"error": {"code": code, "message": error.format_message()}}))
        return
    from .screen import error_line

    ctx = error.ctx if isinstance(error, click.UsageError) else None
    mend = None if ctx is None else f"{ctx.command_path} --help"
    error_line(error.format_message(), mend, code=code, shown=safe_lines)


if __name__ == "__main__":
    main()

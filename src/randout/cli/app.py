"""The command line: parses options, calls the library, prints results to stdout and everything else to stderr."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup, TyperOption

from randout.core import terminal
from randout.core.console import complain, no_second_copy, print_always
from randout.core.errors import EndedElsewhere, Failure, UserError
from randout.core.files import shell_path
from randout.experiments.run.options import Stopped

from . import (
    annotate,
    export,
    first_steps,
    label_issues,
    methods,
    predict,
    push,
    report,
    reproduce,
    runs,
    search,
    shards,
    shrink,
    studies,
    train,
)
from .options import plugin_words
from .output import reason_of


class _Commands(TyperGroup):
    """All commands; an option that takes one value and is given twice is an error."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, and check its options."""
        found = name, command, rest = super().resolve_command(ctx, args)
        assert command is not None
        try:
            _, _, given = command.make_parser(type(ctx)(command, parent=ctx)).parse_args(list(rest))
        except Exception:  # any other mistake is reported when the command itself parses its arguments
            return found
        for option in given:
            if isinstance(option, TyperOption) and not (option.multiple or option.is_flag) and given.count(option) > 1:
                raise UserError(f"{max(option.opts, key=len)}: given twice; `randout {name}` takes it once")
        return found


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    from randout import __version__

    if wanted:
        print(f"randout {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Fine-tune a small text classifier to match a big one, and know that it did."""


app.command()(train.train)
app.add_typer(predict.app)
app.add_typer(reproduce.app)
app.add_typer(search.app)
app.add_typer(methods.app)
app.add_typer(studies.app)
app.add_typer(shrink.app)
app.add_typer(first_steps.app)
app.add_typer(runs.app, name="runs", short_help="List, show and remove runs.")
app.add_typer(report.app)
app.add_typer(export.app)
app.add_typer(push.app)
app.add_typer(annotate.app)
app.add_typer(shards.app)
app.add_typer(label_issues.app)


def main() -> None:
    """Run the command line.

    Exit code 2 for a user's mistake, 1 for a failure (also if standard output cannot be written), 130 after
    Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    terminal.prepare()
    print_always()
    code = _run()
    lost = terminal.finish()
    if lost and not code:
        if lost != "closed":  # a reader that closes the pipe needs no message
            complain(f"error: standard output: {lost}")
        code = 1
    sys.exit(code)


def _run() -> int:
    """Run the command that the command line names; returns its exit code."""
    try:
        with terminal.stop_signals(), no_second_copy():
            terminal.check_arguments(sys.argv[1:])
            app(prog_name="randout")
    except SystemExit as end:
        if end.code == 130 and not isinstance(end, terminal.Told):
            complain("interrupted")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (UserError, Failure) as error:
        if not (isinstance(error, EndedElsewhere) and error.told):
            complain(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return terminal.EXIT_CODES["Ctrl-C"]
    except terminal.Terminated as stop:
        complain(f"stopped by {stop.why}")
        return terminal.EXIT_CODES[stop.why]
    except BrokenPipeError:
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        where = error.filename or ("standard output" if full else "input or output")
        complain(f"error: {where}: {error.strerror or error}")
        return 1
    except Stopped as stop:
        return _stopped(stop)
    return 0


def _stopped(stop: Stopped) -> int:
    command = f"randout train --resume {shell_path(stop.run.path)}{plugin_words()}"
    complain(f"{reason_of(stop)}; checkpoint saved. Resume with: {command}")
    return terminal.EXIT_CODES.get(stop.why, 0)

"""The application: what all commands share.

A command imports what it runs when it is called. At the top of its file it imports only what its declaration needs, so
that the help of every command is shown without torch, whose import takes seconds.

Exit codes: 0 success, 1 an error that fedloru did not expect, 2 error, both with a message on stderr, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from click import Abort, ClickException, Context, HelpFormatter, Option, Parameter
from click.exceptions import Exit
from typer.core import TyperGroup

from fedloru import __version__
from fedloru.cli import completion
from fedloru.errors import ConfigError, FedloruError, printable, traced

UNEXPECTED, ERROR, STOPPED = 1, 2, 130
COMMAND_LINE = "the command line"
"""The source that messages name for problems with options and arguments."""


class _Formatter(HelpFormatter):
    """Writes brackets in help texts without the backslashes that some versions of typer put before them."""

    def write_dl(self, rows: Iterable[tuple[str, str]], *args: int, **kwargs: int) -> None:
        super().write_dl([(name, text.replace("\\[", "[")) for name, text in rows], *args, **kwargs)


class _Context(Context):
    formatter_class = _Formatter


VERBOSE = "fedloru.verbose"
"""The entry of ``Context.meta`` that is set by -v."""


def _set_verbose(ctx: Context, parameter: Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.meta[VERBOSE] = True
        log = logging.getLogger("fedloru")
        ctx.find_root().call_on_close(partial(log.setLevel, log.level))
        log.setLevel(logging.INFO)


VERBOSE_OPTION = Option(
    ["-v", "--verbose"],
    is_flag=True,
    expose_value=False,
    callback=_set_verbose,
    help="Print more about what happens, and the traceback of an error.",
)
"""An option of every command, which its function does not see."""


class Commands(TyperGroup):
    """The commands in the order of their definition; errors are printed as messages, without a traceback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(VERBOSE_OPTION)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        with _printed_messages(ctx), _printed_errors(ctx):
            return super().invoke(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, with -v, and with help that is written by ``_Formatter``."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.context_class = _Context
            if VERBOSE_OPTION not in command.params:
                command.params.append(VERBOSE_OPTION)
        return command

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of their definition."""
        return list(self.commands)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The docstring of each command says what its positional arguments are: not every version of typer shows their help.
Source = Annotated[str | None, typer.Argument(metavar="CONFIG", hidden=True, autocompletion=completion.configurations)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-s",
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, such as method.tau=5; may be repeated.",
        autocompletion=completion.settings,
    ),
]

NewFolder = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="The run folder, which must not exist (default: runs/NAME, or runs/NAME-2, …)."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedloru {__version__}")
        raise typer.Exit


@app.callback()
def fedloru(
    version: Annotated[  # printed by the callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train one model on many clients that send only low-rank updates."""


def say(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr)  # typer.echo would write past the live display, into the middle of it


def check_place(path: Path) -> None:
    """Check that a file can be written to ``path``.

    Raises:
        ConfigError: ``path`` is a folder, or is in a folder that does not exist.
    """
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise ConfigError([f"{path} {problem}: name a file to write to"], COMMAND_LINE)


def check_folder(path: Path) -> None:
    """Check that files can be written into the folder ``path``, which may not exist yet.

    Raises:
        ConfigError: ``path`` is a file.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError([f"{path} is a file: name a folder to write to"], COMMAND_LINE)


@contextmanager
def _printed_errors(ctx: Context) -> Iterator[None]:
    try:
        with _printed_tracebacks(ctx):
            yield
    except FedloruError as error:
        _fail(error, str(error))
    except BrokenPipeError:  # the reader of the output is gone, so there is nowhere to print a message
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(error, f"{place}{error.strerror or error}. Fix this, then try again")
    except KeyboardInterrupt as error:
        say("\n".join(["Stopped.", *getattr(error, "__notes__", [])]))
        raise typer.Exit(STOPPED) from error
    except (ClickException, Exit, Abort):
        raise
    except Exception as error:
        how = "" if ctx.meta.get(VERBOSE) else ": repeat the command with -v to see the traceback"
        _fail(error, f"{traced(error)}. fedloru did not expect this error{how}", UNEXPECTED)


@contextmanager
def _printed_tracebacks(ctx: Context) -> Iterator[None]:
    """Print the traceback of an error if -v is given."""
    try:
        yield
    except (ClickException, Exit, Abort, BrokenPipeError):
        raise
    except Exception as error:
        if ctx.meta.get(VERBOSE):
            say("".join(traceback.format_exception(error)).rstrip())
        raise


def _fail(error: Exception, message: str, code: int = ERROR) -> None:
    say(printable("\n".join([f"Error: {message}", *getattr(error, "__notes__", [])])))
    raise typer.Exit(code) from error


EVENTS = "fedloru.flower"
"""The loggers of a federation report events, which are printed again if they happen again; other warnings are not."""
EVENT_SECONDS, REMEMBERED = 30.0, 10_000
"""The seconds during which an equal event is not printed again, and the number of messages that are remembered."""


class _NoteHandler(logging.Handler):
    """Prints each distinct warning once, as a line on stderr, and events not too often; information if ``verbose``."""

    def __init__(self, verbose: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.verbose = verbose
        self.printed: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not self.verbose():
            return
        message, now = record.getMessage(), time.monotonic()
        again = EVENT_SECONDS if record.name.startswith(EVENTS) else math.inf
        if now - self.printed.get(message, -math.inf) < again:
            return
        self.printed.pop(message, None)  # the latest message is the last one
        self.printed[message] = now
        if len(self.printed) > REMEMBERED:
            del self.printed[next(iter(self.printed))]
        say(printable(f"{'Info' if record.levelno < logging.WARNING else 'Note'}: {message}"))


@contextmanager
def _printed_messages(ctx: Context) -> Iterator[None]:
    log, handler = logging.getLogger("fedloru"), _NoteHandler(lambda: bool(ctx.meta.get(VERBOSE)))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)

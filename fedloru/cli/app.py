"""The application: what all commands share.

A command imports what it runs when it is called. At the top of its file it imports only what its declaration needs, so
that the help of every command is shown without torch, whose import takes seconds.

Exit codes: 0 success, 2 error (with a message on stderr), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from click import Context, HelpFormatter
from typer.core import TyperGroup

from fedloru import __version__
from fedloru.errors import ConfigError, FedloruError, printable

ERROR, STOPPED = 2, 130
COMMAND_LINE = "the command line"
"""The source that messages name for problems with options and arguments."""


class _Formatter(HelpFormatter):
    """Writes brackets in help texts without the backslashes that some versions of typer put before them."""

    def write_dl(self, rows: Iterable[tuple[str, str]], *args: int, **kwargs: int) -> None:
        super().write_dl([(name, text.replace("\\[", "[")) for name, text in rows], *args, **kwargs)


class _Context(Context):
    formatter_class = _Formatter


class Commands(TyperGroup):
    """The commands in the order of their definition; errors are printed as messages, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        with _printed_warnings(), _printed_errors():
            return super().invoke(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, whose help is written by ``_Formatter``."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.context_class = _Context
        return command

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of their definition."""
        return list(self.commands)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# The docstring of each command says what its positional arguments are: not every version of typer shows their help.
Source = Annotated[str | None, typer.Argument(metavar="CONFIG", hidden=True)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Change a setting, such as method.tau=5; may be repeated."),
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
def _printed_errors() -> Iterator[None]:
    try:
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


def _fail(error: Exception, message: str) -> None:
    say(printable("\n".join([f"Error: {message}", *getattr(error, "__notes__", [])])))
    raise typer.Exit(ERROR) from error


EVENTS = "fedloru.flower"
"""The loggers of a federation report events, which are printed again if they happen again; other warnings are not."""
EVENT_SECONDS, REMEMBERED = 30.0, 10_000
"""The seconds during which an equal event is not printed again, and the number of messages that are remembered."""


class _NoteHandler(logging.Handler):
    """Prints each distinct warning once, as a line on stderr, and events not too often."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.printed: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        message, now = record.getMessage(), time.monotonic()
        again = EVENT_SECONDS if record.name.startswith(EVENTS) else math.inf
        if now - self.printed.get(message, -math.inf) < again:
            return
        self.printed.pop(message, None)  # the latest message is the last one
        self.printed[message] = now
        if len(self.printed) > REMEMBERED:
            del self.printed[next(iter(self.printed))]
        say(printable(f"Note: {message}"))


@contextmanager
def _printed_warnings() -> Iterator[None]:
    log, handler = logging.getLogger("fedloru"), _NoteHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)

"""The application: what every command has in common.

Exit codes: 0 done, 2 refused (one paragraph on stderr says why), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedloru.errors import ConfigError, FedloruError

REFUSED, STOPPED = 2, 130
THE_LINE = "the command line"
"""Where a problem is, if not in a configuration."""


class Commands(TyperGroup):
    """The commands, in the order they are defined, with their errors told in words."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _warnings(), _words():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands as they are defined."""
        return list(self.commands)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help="A TOML file, or the name of a preset; without it, the demo.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Change a setting, such as method.tau=5; may be repeated."),
]


@app.callback()
def fedloru() -> None:
    """Train one model over many clients that send only low-rank updates."""


def say(line: str) -> None:
    """Print a line on stderr."""
    typer.echo(line, err=True)


def check_place(path: Path) -> None:
    """Refuse to write to a folder, or into one that does not exist.

    Raises:
        ConfigError: ``path`` is no place for a file.
    """
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise ConfigError([f"{path} {what}: name a file to write to"], THE_LINE)


def check_folder(path: Path) -> None:
    """Refuse to put files into a file.

    Raises:
        ConfigError: ``path`` is no place for a folder.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError([f"{path} is a file: name a folder to write to"], THE_LINE)


@contextmanager
def _words() -> Iterator[None]:
    try:
        yield
    except FedloruError as error:
        _refuse(error, str(error))
    except BrokenPipeError:  # the reader of our output has gone: nothing to tell, and nobody to tell it
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _refuse(error, f"{where}{error.strerror or error}. Free or mend it, then try again")
    except KeyboardInterrupt as error:
        say("\n".join(["Stopped.", *getattr(error, "__notes__", [])]))
        raise typer.Exit(STOPPED) from error


def _refuse(error: Exception, message: str) -> None:
    say("\n".join([f"Error: {message}", *getattr(error, "__notes__", [])]))
    raise typer.Exit(REFUSED) from error


class _Lines(logging.Handler):
    """Shows a warning once, as a plain line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.seen:
            self.seen.add(message)
            say(f"Note: {message}")


@contextmanager
def _warnings() -> Iterator[None]:
    log, lines = logging.getLogger("fedloru"), _Lines()
    log.addHandler(lines)
    try:
        yield
    finally:
        log.removeHandler(lines)

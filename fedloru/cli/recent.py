"""The runs that a command means if none is named."""

from __future__ import annotations

from pathlib import Path

from fedloru.cli.app import COMMAND_LINE, say
from fedloru.errors import ConfigError
from fedloru.run.places import RUNS, is_stopped, newest


def stopped_last() -> Path:
    """Return the run that was stopped last, and say which it is.

    Raises:
        ConfigError: there is none.
    """
    return _said(newest(is_stopped), f"no run in {RUNS}/ is stopped: name the folder of the run")


def last() -> Path:
    """Return the newest run, and say which it is.

    Raises:
        ConfigError: there is none.
    """
    return _said(newest(), f"there is no run in {RUNS}/: name the folder of a run")


def _said(folder: Path | None, problem: str) -> Path:
    if folder is None:
        raise ConfigError([problem], COMMAND_LINE)
    say(f"The run is {folder}.")
    return folder

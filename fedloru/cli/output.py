"""What commands print on stdout: tables for people, or one JSON object for programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")]

UNCUT = 10_000
"""The width of lines, in characters, if stdout is not a terminal."""


def console() -> Console:
    """Return a console for stdout.

    On a terminal, lines are as wide as it is. Elsewhere they are not cut, unless the environment sets COLUMNS, and have
    no control codes.
    """
    from rich.console import Console

    chosen = Console()
    return chosen if chosen.is_terminal or "COLUMNS" in os.environ else Console(width=UNCUT)


def print_json(record: Mapping[str, Any]) -> None:
    """Print a record as JSON; numbers that JSON lacks are the strings "inf", "-inf" and "nan"."""
    typer.echo(json.dumps(_finite(record), indent=2, allow_nan=False, ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

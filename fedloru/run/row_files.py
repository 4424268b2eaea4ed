"""The rows of a run folder: those of all rounds, the scores before training, and the texts generated at evaluations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.reading import UnreadableError, parse_json, read_bytes, read_json
from fedloru.schema import Row, StartRow, check

ROUNDS = "rounds.jsonl"
START = "start.json"
"""The scores of the model before training, as a row of round 0."""
GENERATIONS = "generations"
"""Texts generated at evaluations: a key of rows in memory, and the name of a file in the folder."""
FILES = (ROUNDS, START, f"{GENERATIONS}.jsonl")


def append(folder: Path, row: dict[str, Any]) -> None:
    """Append the row of one round, on disk when this returns; generated texts go to a separate file."""
    _append_generations(folder, row)
    _append(folder / ROUNDS, [_without_generations(row)])


def read(folder: Path, rounds: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of the first ``rounds`` rounds, by default of all that are in the folder.

    Raises:
        RunFolderError: a line is missing or damaged.
    """
    path, lines = folder / ROUNDS, _lines(folder)
    wanted = len(lines) if rounds is None else rounds
    try:
        rows = [check(parse_json(line, dict), Row) for line in lines[:wanted]]
    except UnreadableError as error:
        raise RunFolderError(f"{path} has a damaged line: {error}. Restore the file, then resume") from error
    if [row.get("round") for row in rows] != list(range(1, wanted + 1)):
        raise RunFolderError(f"{path} does not contain rounds 1 to {wanted} in order: restore the file, then resume")
    return rows


def count(folder: Path) -> int:
    """Return the number of rounds in the folder.

    Raises:
        RunFolderError: the file cannot be read.
    """
    return len(_lines(folder))


def read_start(folder: Path) -> dict[str, Any] | None:
    """Return the scores of the model before training, as a row of round 0; None if they are not known yet.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        return check(read_json(folder / START, dict), StartRow)
    except FileNotFoundError:
        return None
    except (OSError, UnreadableError) as error:
        raise RunFolderError(
            f"{folder / START} cannot be read: {error}. Restore it, or remove it and resume: it is written again"
        ) from error


def save_start(folder: Path, row: dict[str, Any]) -> None:
    """Write the scores of the model before training; generated texts go to a separate file."""
    _forget_generations(folder, -1)
    _append_generations(folder, row)
    write_atomic(folder / START, json.dumps(_without_generations(row)).encode())


def forget_after(folder: Path, round: int) -> None:
    """Remove the rows and texts of rounds after ``round``, to which a run has been reset.

    Raises:
        RunFolderError: a file cannot be read, or the file of generated texts is damaged.
    """
    _forget_generations(folder, round)
    write_atomic(folder / ROUNDS, b"".join(_lines(folder)[:round]))


def _lines(folder: Path) -> list[bytes]:
    path = folder / ROUNDS
    try:
        return read_bytes(path).splitlines(keepends=True) if path.exists() else []
    except (OSError, UnreadableError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}. Restore the file, then resume") from error


def _append_generations(folder: Path, row: dict[str, Any]) -> None:
    if generated := [{"round": row["round"], **each} for each in row.get(GENERATIONS, ())]:
        _append(folder / f"{GENERATIONS}.jsonl", generated)


def _forget_generations(folder: Path, round: int) -> None:
    """Remove texts generated after ``round``, and an incomplete line that a killed run may have left."""
    path = folder / f"{GENERATIONS}.jsonl"
    if not path.exists():
        return
    try:
        complete = [line for line in read_bytes(path).splitlines(keepends=True) if line.endswith(b"\n")]
        kept = [line for line in complete if parse_json(line, dict)["round"] <= round]
    except (OSError, UnreadableError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} has a damaged line: {error}. Restore or remove it, then resume") from error
    write_atomic(path, b"".join(kept))


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def _without_generations(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != GENERATIONS}

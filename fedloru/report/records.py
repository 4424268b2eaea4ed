"""A run folder, read: what was configured, how the data was split, what each round did, and how it ended.

The folder is the only thing a report knows of a run, so a run on another machine, or one that is still going,
reports the same way.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.errors import RunFolderError

CONFIG, PARTITION, ROUNDS, SUMMARY = "config.toml", "partition.json", "rounds.jsonl", "summary.json"
WRITTEN = "generations.jsonl"

STUDIES = "studies"
"""A folder in a run's, with what was studied of it afterwards: ``NAME-ROUND.json``."""
RANKS, ALIGNMENT = "ranks", "alignment"
ALL = "all"
"""What an alignment calls all weights, taken together as one vector."""

FIELDS = frozenset(
    {"round", "version", "merged", "seconds", "train_loss", "test_loss", "test_accuracy"}
    | {f"{way}_{what}" for way in ("up", "down") for what in ("bytes", "bytes_total")}
)
"""What every line of ``rounds.jsonl`` has; others may be there too."""
TEXTS = frozenset({"round", "prompt", "reference", "generated"})
"""What every line of ``generations.jsonl`` has."""


class Records(NamedTuple):
    """A run folder as data; ``partition`` is {} where none was saved, ``summary`` {} while the run goes on.

    ``written`` has what a language model wrote after each test prompt, evaluation by evaluation.
    ``ranks`` and ``alignment`` are what was studied of it afterwards, one entry a checkpoint, in their order.
    """

    folder: Path
    config: dict[str, Any]
    partition: dict[str, Any]
    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    written: Sequence[dict[str, Any]] = ()
    ranks: Sequence[dict[str, Any]] = ()
    alignment: Sequence[dict[str, Any]] = ()

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def read(folder: str | Path) -> Records:
    """Read a run folder, finished or not.

    Raises:
        RunFolderError: the folder is missing, is not a run folder, or holds a file that cannot be read.
    """
    folder = Path(folder)
    _check(folder)
    rows, summary = _rows(folder / ROUNDS, FIELDS, "the record of a round"), _object(folder / SUMMARY)
    if summary.get("rounds") != len(rows):  # it tells of an earlier session, and this one is still going
        summary = {}
    written = _rows(folder / WRITTEN, TEXTS, "a text that a model wrote") if (folder / WRITTEN).is_file() else []
    studies = (_studies(folder / STUDIES, *kind) for kind in ((RANKS, "records"), (ALIGNMENT, "agreement")))
    return Records(folder, _toml(folder / CONFIG), _object(folder / PARTITION), rows, summary, written, *studies)


def outcome(records: Records) -> dict[str, Any]:
    """Return the summary, or as much of it as the rounds so far can tell; bytes, seconds, nats."""
    return _so_far(records.rounds) | {"finished": bool(records.summary)} | records.summary


def evaluations(records: Records, field: str = "test_accuracy") -> list[dict[str, Any]]:
    """Return the rounds in which ``field`` was measured."""
    return [row for row in records.rounds if row.get(field) is not None]


def personal(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]] | None:
    """Return the latest accuracies over clients, of the shared and of personal models; None where never measured."""
    return next((row["personal"] for row in reversed(rows) if row.get("personal")), None)


def _so_far(rows: list[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [row["test_accuracy"] for row in rows if row["test_accuracy"] is not None]
    losses = [row["test_loss"] for row in rows if row["test_loss"] is not None]
    perplexities = [row["test_perplexity"] for row in rows if "test_perplexity" in row]
    last = accuracies[-5:]
    return {
        "rounds": len(rows),
        "final_accuracy": accuracies[-1] if accuracies else None,
        "last5_accuracy": sum(last) / len(last) if last else None,
        "final_loss": losses[-1] if losses else None,
        **({"final_perplexity": perplexities[-1]} if perplexities else {}),
        "up_bytes_total": rows[-1]["up_bytes_total"] if rows else 0,
        "down_bytes_total": rows[-1]["down_bytes_total"] if rows else 0,
        "bytes": _by_kind([row.get("bytes", {}) for row in rows]),
        "seconds": sum(row["seconds"] for row in rows),
        "merges": sum(bool(row["merged"]) for row in rows),
        "profiles": _by_profile(rows),
        "personal": personal(rows),
    }


def _by_profile(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    lines: dict[str, list[dict[str, Any]]] = {}
    for name, line in (item for row in rows for item in row.get("profiles", {}).items()):
        lines.setdefault(name, []).append(line)
    return {
        name: {"client_rounds": sum(line["clients"] for line in found), **_by_kind(found)}
        for name, found in lines.items()
    }


def _by_kind(accounts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {"down": {}, "up": {}}
    for account in accounts:
        for way, sums in total.items():
            for kind, count in account.get(way, {}).items():
                sums[kind] = sums.get(kind, 0) + count
    return total


def _check(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RunFolderError(f"{folder} {what}: name the folder that a run has written, such as runs/NAME")
    missing = [name for name in (CONFIG, ROUNDS) if not (folder / name).is_file()]
    if missing:
        raise RunFolderError(
            f"{folder} is not a run folder: it has no {' and no '.join(missing)}; "
            "name the folder that a run has written, such as runs/NAME"
        )


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path} is not valid TOML: {error}") from error


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunFolderError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{path} holds a {type(value).__name__}, but a JSON object was expected")
    return value


def _studies(folder: Path, name: str, field: str) -> list[dict[str, Any]]:
    found = []
    for path in folder.glob(f"{name}-*.json"):
        found.append(study := _object(path))
        if missing := [key for key in ("of", field) if key not in study]:
            raise RunFolderError(f"{path} has no {' and no '.join(missing)}: make it anew, or remove it")
    return sorted(found, key=lambda study: study["of"]["round"])


def _rows(path: Path, fields: frozenset[str], what: str) -> list[dict[str, Any]]:
    """Return the lines of a file, of which each is ``what`` and has ``fields``."""
    *lines, torn = path.read_bytes().split(b"\n")
    rows = [_row(path, number, line, fields, what) for number, line in enumerate(lines, 1) if line.strip()]
    try:
        return [*rows, _row(path, len(lines) + 1, torn, fields, what)]
    except RunFolderError:  # a run that is killed while it writes leaves half a line, and never its newline
        return rows


def _row(path: Path, number: int, line: bytes, fields: frozenset[str], what: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RunFolderError(f"{path}, line {number}, is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise RunFolderError(f"{path}, line {number}, holds a {type(row).__name__}, but a JSON object was expected")
    if missing := sorted(fields - row.keys()):
        raise RunFolderError(f"{path}, line {number}, has no {', '.join(missing)}: it is not {what}")
    return row

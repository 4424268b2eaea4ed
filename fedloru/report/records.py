"""Reading run folders: the configuration, the partition, the rounds and the summary of a run.

Reports use nothing but the run folder, so they also work for runs on other machines and for unfinished runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from fedloru.errors import RunFolderError, quoted, sentence
from fedloru.reading import UnreadableError, parse_json, read_bytes, read_json, read_tensors, read_toml
from fedloru.report.class_counts import ClassCounts
from fedloru.schema import PartitionRecord, Row, StartRow, Summary, Table, check, metric_names, shown

CONFIG, PARTITION, ROUNDS, SUMMARY = "config.toml", "partition.json", "rounds.jsonl", "summary.json"
START = "start.json"
WRITTEN, NAMES = "generations.jsonl", "clients.json"

STUDIES = "studies"
"""The subfolder of a run folder with the results of later analyses of the run, ``NAME-ROUND.json``."""
RANKS, ALIGNMENT = "ranks", "alignment"
ALL = "all"
"""The key in an alignment study for all weights, concatenated into one vector."""

FIELDS = frozenset(
    {"round", "version", "merged", "seconds", "train_loss", "test_loss", "test_accuracy"}
    | {f"{way}_{what}" for way in ("up", "down") for what in ("bytes", "bytes_total")}
)
"""The required fields of each line of ``rounds.jsonl``; there may be others."""
TEXTS = frozenset({"round", "prompt", "reference", "generated"})
"""The required fields of each line of ``generations.jsonl``."""


class Records(NamedTuple):
    """The contents of a run folder; ``partition`` is {} if none was saved, ``summary`` is {} until the run finishes.

    ``written`` has the texts that a language model generated for each test prompt, evaluation by evaluation.
    ``ranks`` and ``alignment`` have the results of later analyses, one entry per analyzed checkpoint, in round order.
    ``start`` has the scores of the model before training, as a row of round 0; {} if they are not known.
    ``names`` are the names of the clients, by index, if they have names.
    """

    folder: Path
    config: dict[str, Any]
    partition: dict[str, Any]
    rounds: list[dict[str, Any]]
    summary: dict[str, Any]
    written: Sequence[dict[str, Any]] = ()
    ranks: Sequence[dict[str, Any]] = ()
    alignment: Sequence[dict[str, Any]] = ()
    names: Sequence[str] = ()
    start: Mapping[str, Any] = {}

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The rows of all rounds, after that of round 0 if the model was evaluated before training."""
        return [*([dict(self.start)] if self.start else ()), *self.rounds]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name


def read(folder: str | Path) -> Records:
    """Read a run folder, finished or not.

    Raises:
        RunFolderError: the folder does not exist, is not a run folder, or contains a file that cannot be read.
    """
    folder = Path(folder)
    _check(folder)
    rows = _rows(folder / ROUNDS, FIELDS, "a round record", Row)
    summary = _object(folder / SUMMARY, Summary)
    if summary.get("rounds") != len(rows):  # the summary is from before the run was resumed
        summary = {}
    written = _rows(folder / WRITTEN, TEXTS, "a generated text") if (folder / WRITTEN).is_file() else []
    ranks, alignment = _studies(folder / STUDIES, RANKS, "records"), _studies(folder / STUDIES, ALIGNMENT, "agreement")
    config, partition = _toml(folder / CONFIG), _partition(folder / PARTITION)
    names = _names(folder / NAMES) or partition.get("names", [])
    start = _object(folder / START, StartRow)
    return Records(folder, config, partition, rows, summary, written, ranks, alignment, names, start)


def outcome(records: Records) -> dict[str, Any]:
    """Return the summary, or the part of it that can be computed from the rounds so far; bytes, seconds, nats."""
    started = _so_far(records.rounds) | _test_examples(records) | {"finished": bool(records.summary)}
    started |= {"task": records.partition.get("task", ""), "loss": records.config.get("model", {}).get("loss", "")}
    started |= {"start": {name: value for name, value in records.start.items() if name.startswith("test_")}}
    return started | records.summary


def evaluations(records: Records, field: str = "test_accuracy") -> list[dict[str, Any]]:
    """Return the rounds in which ``field`` was measured."""
    return [row for row in records.rounds if row.get(field) is not None]


def curve(records: Records, field: str = "test_accuracy") -> list[dict[str, Any]]:
    """Return the rounds in which ``field`` was measured, with round 0 first if it has been before training."""
    return [row for row in records.measured if row.get(field) is not None]


def personal(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]] | None:
    """Return the latest per-client statistics of the shared and the personal models, or None if never measured."""
    return next((row["personal"] for row in reversed(rows) if row.get("personal")), None)


def _so_far(rows: list[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [row["test_accuracy"] for row in rows if row["test_accuracy"] is not None]
    losses = [row["test_loss"] for row in rows if row["test_loss"] is not None]
    perplexities = [row["test_perplexity"] for row in rows if "test_perplexity" in row]
    matches = [row["exact_match"] for row in rows if "exact_match" in row]
    last = accuracies[-5:]
    return {
        "rounds": len(rows),
        "final_accuracy": accuracies[-1] if accuracies else None,
        "last5_accuracy": sum(last) / len(last) if last else None,
        "final_loss": losses[-1] if losses else None,
        **({"final_perplexity": perplexities[-1]} if perplexities else {}),
        **({"final_exact_match": matches[-1]} if matches else {}),
        **_metrics(rows),
        "up_bytes_total": rows[-1]["up_bytes_total"] if rows else 0,
        "down_bytes_total": rows[-1]["down_bytes_total"] if rows else 0,
        "bytes": _by_kind([row.get("bytes", {}) for row in rows]),
        "seconds": sum(row["seconds"] for row in rows),
        "merges": sum(bool(row["merged"]) for row in rows),
        "profiles": _by_profile(rows),
        "personal": personal(rows),
    }


def _metrics(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    last: dict[str, Any] = next((row for row in reversed(rows) if row["test_loss"] is not None), {})
    return {f"final_{name}": last[f"test_{name}"] for name in metric_names([last])}


def _test_examples(records: Records) -> dict[str, int]:
    """Return the number of test examples that are used, and of all, as far as they are recorded."""
    examples = records.partition.get("audit", {}).get("test_examples")
    if examples is None:
        return {}
    used = min(examples, records.config.get("eval", {}).get("examples", examples))
    return {"test_examples": used, "all_test_examples": examples}


def _by_profile(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    by_profile: dict[str, list[dict[str, Any]]] = {}
    for name, line in (item for row in rows for item in row.get("profiles", {}).items()):
        by_profile.setdefault(name, []).append(line)
    return {
        name: {"client_rounds": sum(line["clients"] for line in lines), **_by_kind(lines)}
        for name, lines in by_profile.items()
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
        problem = "is a file" if folder.exists() else "does not exist"
        raise RunFolderError(f"{folder} {problem}: expected a folder written by a run, such as runs/NAME")
    missing = [name for name in (CONFIG, ROUNDS) if not (folder / name).is_file()]
    if missing:
        raise RunFolderError(
            f"{folder} is not a run folder: it has no {' and no '.join(missing)}; "
            "expected a folder written by a run, such as runs/NAME"
        )


def _toml(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except (OSError, UnreadableError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def _object(path: Path, form: type[BaseModel] = Table) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return check(read_json(path, dict), form)
    except (OSError, UnreadableError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def _partition(path: Path) -> dict[str, Any]:
    """Return the description of the partition, with the examples of each client by class as ``counts``, if known."""
    partition, rows = _object(path, PartitionRecord), path.with_suffix(".safetensors")
    if "counts" in partition or not partition or not rows.exists():
        return partition
    try:
        arrays, _ = read_tensors(rows)
        sizes = arrays["train_sizes"].numpy()
        labels = arrays["labels"].numpy() if "labels" in arrays else np.zeros(len(arrays["train"]), np.int64)
        counts = ClassCounts(labels, sizes, max(1, len(partition.get("classes", ()))))
    except (OSError, UnreadableError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{rows} cannot be read: {sentence(error)}; restore the file") from error
    return partition | {"counts": counts} if len(labels) else partition


def _names(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        names = read_json(path, list)
    except (OSError, UnreadableError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise RunFolderError(f"{path} has {quoted(wrong[0])}, expected a list of names; restore the file")
    return names


def _studies(folder: Path, name: str, field: str) -> list[dict[str, Any]]:
    studies = []
    for path in folder.glob(f"{name}-*.json"):
        studies.append(study := _object(path))
        if missing := [key for key in ("of", field) if key not in study]:
            raise RunFolderError(
                f"{path} has no {' and no '.join(missing)}: run the analysis again, or remove the file"
            )
    with shown(folder):
        return sorted(studies, key=lambda study: study["of"]["round"])


def _rows(path: Path, fields: frozenset[str], kind: str, form: type[BaseModel] = Table) -> list[dict[str, Any]]:
    """Return the lines of a JSON lines file, checked to have ``fields``; errors call a line ``kind``."""
    try:
        *lines, last = read_bytes(path).split(b"\n")
    except (OSError, UnreadableError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    rows = [_row(path, number, line, fields, kind, form) for number, line in enumerate(lines, 1) if line.strip()]
    try:
        return [*rows, _row(path, len(lines) + 1, last, fields, kind, form)]
    except RunFolderError:  # a run killed while writing leaves a partial line without a newline
        return rows


def _row(
    path: Path, number: int, line: bytes, fields: frozenset[str], kind: str, form: type[BaseModel]
) -> dict[str, Any]:
    try:
        row = parse_json(line, dict)
    except UnreadableError as error:
        raise RunFolderError(f"{path}, line {number}, cannot be read: {error}") from error
    if missing := sorted(fields - row.keys()):
        raise RunFolderError(f"{path}, line {number}, has no {', '.join(missing)}: it is not {kind}")
    try:
        return check(row, form)
    except UnreadableError as error:
        raise RunFolderError(f"{path}, line {number}: {error}; restore the file") from error

"""What data a file or a folder holds, from its name and its first rows, to propose a configuration."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from fedloru.data import files
from fedloru.data.cells import LIKE_DATE, NUMBER
from fedloru.data.doubts import MISSING_NAMES
from fedloru.data.features import FEW
from fedloru.data.lines import lines
from fedloru.errors import DataError, FedloruError
from fedloru.reading import UnreadableError, parse_json

IMAGES, TABLE, TEXT, BUILT_IN = "images", "table", "text", "built-in"
PICTURES = {".png", ".jpg", ".jpeg"}
SAMPLE, ENTRIES, SITES = 1000, 1000, 20
"""The numbers of rows of a file, of files in a folder, and of files whose rows are looked at."""
LONG, WORDS = 40, 3
"""The mean number of characters from which the values of a column are texts rather than categories; of a column that
is called like a text, or is the only one, the mean number of words."""
NAMES = ("text", "sentence", "message", "content")
LABELS = ("label", "target", "class", "y", "outcome", "diagnosis")
PROMPTS, RESPONSES = ("prompt", "instruction", "question", "input"), ("response", "output", "answer", "completion")
CONVERSATIONS = ("messages", "conversations", "conversation")
CLIENTS = (
    *("client", "client_id", "site", "hospital", "clinic", "institution", "centre", "center", "branch", "store"),
    *("user", "user_id", "person", "speaker", "subject", "device", "device_id", "country", "region"),
)
"""Names of columns that usually identify clients, the most certain ones first."""
FEWEST = 5
"""The mean number of rows that a value of a column has if it identifies clients."""
MISSING = MISSING_NAMES - {"none"} | {"?"}
"""Texts that usually stand for missing values, in lower case; "none" may be a category."""
SPLITS = {"train", "test"}

Rows = Sequence[Mapping[str, Any]]


class Found(NamedTuple):
    """Data of a kind, the settings of [data] that read it, and the number of its files.

    ``client`` is the column that seems to identify clients, and ``metrics`` what is worth measuring.
    """

    kind: str
    data: dict[str, Any]
    sites: int = 1
    client: str = ""
    metrics: tuple[str, ...] = ()


def look(path: Path, kind: str | None = None) -> Found | None:
    """Return what ``path`` holds; None if nothing in it is known.

    ``kind`` is what its user says it holds, which decides between a table and texts if its rows can be either.

    Raises:
        DataError: a file cannot be read.
    """
    if path.is_dir():
        return _folder(path, kind)
    if path.suffix.lower() == ".npz":
        return Found(IMAGES, {"source": "npz", "path": path.as_posix()})
    return _file(path, [path], kind) if path.suffix.lower() in files.READERS else None


def around(folder: Path) -> Found | None:
    """Return the first data in ``folder``, which is looked at by name; None if there is none."""
    for path in sorted(islice(folder.iterdir(), ENTRIES)):
        if path.name[:1] in (".", "_") or path.name == "runs":
            continue
        try:
            if found := look(path):
                return found
        except (FedloruError, OSError):
            continue
    return None


def _folder(path: Path, kind: str | None) -> Found | None:
    entries = sorted(entry for entry in islice(path.iterdir(), ENTRIES) if not entry.name.startswith("."))
    tables = [entry for entry in entries if entry.suffix.lower() in files.READERS]
    if tables:
        return _file(path, tables, kind)
    deeper = [inner for entry in entries if entry.is_dir() for inner in islice(entry.iterdir(), ENTRIES)]
    deepest = [inner for entry in deeper[:ENTRIES] if entry.is_dir() for inner in islice(entry.iterdir(), ENTRIES)]
    if any(inner.suffix.lower() in PICTURES for inner in [*deeper, *deepest]):
        return Found(IMAGES, {"source": "folder", "path": path.as_posix()})
    return None


def _file(path: Path, tables: Sequence[Path], kind: str | None) -> Found:
    """Return what the files ``tables`` of ``path`` hold."""
    samples = [sample(table) for table in tables[:SITES]]
    rows = list(chain.from_iterable(samples))
    if not rows or not rows[0]:
        raise DataError(f"{path} has no {'columns' if rows else 'rows'}")
    names, place = list(rows[0]), {"path": path.as_posix()}
    sites = 1 if {table.stem for table in tables} == SPLITS else len(tables)
    pictures = [name for name in names if name in ("image", "img") or isinstance(rows[0][name], Mapping | bytes)]
    if pictures and path.suffix.lower() == ".parquet":
        return Found(IMAGES, {"source": "parquet", **place, "image": pictures[0], "label": _label(names)})
    columns = None if kind == TABLE else _texts(rows, names, certain=kind == TEXT)
    if columns is not None:
        return Found(TEXT, {"source": "text", **place, **columns}, sites, _client(rows, names, *columns.values()))
    label = _label(names)
    client = _client(rows, names, label)
    features = [name for name in names if name not in (label, client)]
    used = [name for name in features if _is_feature(name, [[row.get(name) for row in part] for part in samples])]
    chosen = {"features": used} if 0 < len(used) < len(features) else {}
    table = {"source": "csv", **place, "label": label, **chosen, "standardize": True, **_missing(rows)}
    classes = {str(row.get(label)) for row in rows}
    return Found(TABLE, table, sites, client, ("auc",) if len(classes) == 2 else ())


def _is_feature(name: str, parts: Sequence[Sequence[Any]]) -> bool:
    """Return whether a column, with its values in each file, can be a feature: dates and identifiers are none.

    An identifier differs in all rows of a file; the next file may start over.
    """
    values = list(chain.from_iterable(parts))
    texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    if texts and all(map(LIKE_DATE.fullmatch, texts)):
        return False
    is_named_id = name.lower() == "id" or name.lower().endswith("_id")
    is_text = bool(texts) and not any(map(NUMBER.fullmatch, texts))
    differs = all(len(set(map(str, part))) == len(part) for part in parts)
    return not differs or len(values) <= FEW or not (is_named_id or is_text)


def _client(rows: Rows, names: Sequence[str], *others: str) -> str:
    """Return the column that identifies clients by its name and its values; "" if there is none."""
    column = _first([name for name in names if name not in others], CLIENTS)
    if column is None:
        return ""
    values = {value if isinstance(value := row.get(column), str | int) else "" for row in rows}
    return column if "" not in values and 1 < len(values) <= len(rows) / FEWEST else ""


def _missing(rows: Rows) -> dict[str, Any]:
    """Return the settings for missing values if ``rows`` have any."""
    values = [value for row in rows for value in row.values()]
    texts = {value.strip() for value in values if isinstance(value, str)}
    stand_ins = sorted(text for text in texts if text.lower() in MISSING)
    if not stand_ins and "" not in texts and not any(value is None for value in values):
        return {}
    return {"missing": "median", **({"na": stand_ins} if stand_ins else {})}


def _texts(rows: Rows, names: Sequence[str], *, certain: bool) -> dict[str, Any] | None:
    """Return the kind of the texts in ``rows`` and their columns; None if they are a table."""
    if _first(names, CONVERSATIONS):
        return {"kind": "instruct"}
    prompt, response = _first(names, PROMPTS), _first(names, RESPONSES)
    if prompt and response:
        return {"kind": "instruct", "prompt": prompt, "response": response}
    label = _first(names, LABELS)
    columns = {name: [row.get(name) for row in rows] for name in names if name != label}
    long = [name for name, values in columns.items() if _mean(values, len) >= LONG]
    called = [name for name in columns if name.lower() in NAMES or len(columns) == 1 or certain]
    worded = [name for name in called if _mean(columns[name], _words) >= (2 if certain else WORDS)]
    if not long and not worded:
        return None
    text = _first([*long, *worded], NAMES) or [*long, *worded][0]
    return {"kind": "plain", "text": text} if label is None else {"kind": "classify", "text": text, "label": label}


def _mean(values: Sequence[Any], measure: Callable[[str], int]) -> float:
    return sum(measure(value) for value in values if isinstance(value, str)) / len(values)


def _words(value: str) -> int:
    return len(value.split())


def _label(names: Sequence[str]) -> str:
    others = [name for name in names if name.lower() not in CLIENTS]
    return _first(names, LABELS) or (others or names)[-1]


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in wanted if name in lower), None)


def sample(file: Path) -> Rows:
    """Return the first rows of a file.

    Raises:
        DataError: it cannot be read.
    """
    ending = file.suffix.lower()
    if ending in (".csv", ".tsv"):
        text = (line for _, line in lines(file, str(file)))
        try:
            reader = csv.DictReader(text, delimiter="," if ending == ".csv" else "\t")
            return [{name: row[name] for name in reader.fieldnames or ()} for row in islice(reader, SAMPLE)]
        except csv.Error as error:
            raise DataError(f"{file} cannot be read: {error}") from error
    if ending in (".jsonl", ".ndjson"):
        texts = (line for _, line in lines(file, str(file)) if line.strip())
        try:
            return [parse_json(line.encode(), dict) for line in islice(texts, SAMPLE)]
        except UnreadableError as error:
            raise DataError(f"{file} cannot be read: {error}") from error
    table = files.read(file)
    head = {name: table[name][:SAMPLE] for name in table.column_names}
    return [dict(zip(head, row, strict=True)) for row in zip(*head.values(), strict=True)]

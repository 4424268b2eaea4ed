"""Texts as a data set: read, made into tokens, parted into training and test, packed or padded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedloru.data.build import check_labels, held_out, numbers
from fedloru.data.dataset import Dataset, Examples
from fedloru.errors import DataError
from fedloru.hf.blocks import IGNORED, Tokens, packed
from fedloru.hf.encode import Classify, Counts, Kind, Plain
from fedloru.hf.tables import Tables, filled, is_nested, keys, read

log = logging.getLogger("fedloru")

UNKNOWN = 10**9
"""A tokenizer that does not know how many tokens its model takes claims more than these."""


class _Side(NamedTuple):
    """The examples to train or to test on; ``units`` says for each row of their table whose text it is."""

    examples: list[Tokens]
    units: list[tuple[str, ...]]
    labels: np.ndarray[Any, Any] | None

    def part(self, mask: Tensor) -> _Side:
        return self._replace(examples=[self.examples[i] for i in mask.nonzero().flatten().tolist()])


def load(
    tokenizer: Any,
    path: str,
    kind: Kind,
    *,
    test: str | None = None,
    subset: str | None = None,
    columns: Sequence[str] = (),
    max_length: int = 512,
    pack: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    positions: int | None = None,
) -> Dataset:
    """Load texts from a file of parquet or JSON lines, a folder or the hub, as examples of up to ``max_length`` tokens.

    ``test`` is a second file, or the name of a split; without it and without a split of that name, ``test_fraction``
    is held out: of each class, or of each unit. A unit is all texts with the same values of ``columns``, and the whole
    data set where there are none. With ``pack``, the examples of a unit share blocks; attention crosses examples
    there. ``positions`` is how many tokens the model takes.

    Raises:
        DataError: the texts, their columns, the template or the tokenizer do not serve; it says what to do.
    """
    _check(tokenizer, kind, max_length, pack, positions)
    name = Path(path).stem
    found = read(path, test, subset, kind.label if isinstance(kind, Classify) else None)
    train, counts = _side(found.train, f"{name} (train)", kind, tokenizer, columns, max_length)
    if found.test is None:
        mask = held_out(_groups(train), test_fraction, seed)
        train, held = train.part(~mask), train.part(mask)
    else:
        held, more = _side(found.test, f"{name} (test)", kind, tokenizer, (), max_length)
        counts = counts.join(more)
    if pack:
        train, held = (_packed(side, max_length, whole=not isinstance(kind, Plain)) for side in (train, held))
    notes = _notes(name, max_length, (train, held), counts)
    return _dataset(name, kind, found, (train, held), columns, notes)


def _check(tokenizer: Any, kind: Kind, max_length: int, pack: bool, positions: int | None) -> None:
    known = [size for size in (positions, tokenizer.model_max_length) if size is not None and size < UNKNOWN]
    most = min(known, default=UNKNOWN)
    if not 2 <= max_length <= most:
        limit = f"from 2 to {most}, which is what the model takes" if known else "2 or more"
        raise DataError(f"max_length is {max_length} tokens, but must be {limit}: change data.max_length")
    if pack and isinstance(kind, Classify):
        raise DataError("texts with a class cannot be packed, since a block has one class: leave data.pack out")


def _side(
    table: Any, where: str, kind: Kind, tokenizer: Any, columns: Sequence[str], max_length: int
) -> tuple[_Side, Counts]:
    if not table.num_rows:
        raise DataError(f"{where} has no rows")
    found = keys(table, columns, where)
    labels = None
    if isinstance(kind, Classify):
        raw = filled(table, kind.label, where)
        if is_nested(raw):
            raise DataError(f"{where}: column {kind.label!r} holds {raw.type}, and a text has one class; name another")
        labels = np.array(raw.to_pylist())
        check_labels(where, labels)
    examples, counts = kind.encode(tokenizer, table, where, max_length)
    if not examples:
        raise DataError(f"{where}: nothing is left to learn within {max_length} tokens; raise data.max_length")
    units = [tuple(found[name][row] for name in columns) for row in range(table.num_rows)]
    return _Side(examples, units, labels), counts


def _groups(side: _Side) -> np.ndarray[Any, Any]:
    """Return what each example is held out by: its class, or its unit."""
    rows = [example.row for example in side.examples]
    if side.labels is not None:
        return side.labels[rows]
    number = {unit: position for position, unit in enumerate(dict.fromkeys(side.units))}
    return np.array([number[side.units[row]] for row in rows])


def _packed(side: _Side, max_length: int, *, whole: bool) -> _Side:
    of_unit: dict[tuple[str, ...], list[Tokens]] = {}
    for example in side.examples:
        of_unit.setdefault(side.units[example.row], []).append(example)
    blocks = [block for examples in of_unit.values() for block in packed(examples, max_length, whole=whole)]
    return side._replace(examples=blocks)


def _notes(name: str, max_length: int, sides: Sequence[_Side], counts: Counts) -> dict[str, int]:
    """Count what was kept and what was not, and say so where tokens were lost."""
    kept = sum(len(example.ids) for side in sides for example in side.examples)
    lost = counts.tokens - kept
    if counts.cut or counts.dropped:
        more = f", {counts.dropped:,} more were dropped since their whole response is beyond it"
        told = f"{counts.cut:,} examples are longer than data.max_length = {max_length} and were cut"
        told += more if counts.dropped else ""
        log.warning("%s: %s; %s of %s tokens were lost", name, told, f"{lost:,}", f"{counts.tokens:,}")
    if counts.empty:
        log.warning("%s: %s texts are empty and were left out", name, f"{counts.empty:,}")
    return {
        "tokens": kept,
        "tokens cut": lost,
        "examples cut": counts.cut,
        "examples dropped": counts.dropped,
        "empty texts": counts.empty,
    }


def _dataset(
    name: str, kind: Kind, found: Tables, sides: tuple[_Side, _Side], columns: Sequence[str], notes: dict[str, int]
) -> Dataset:
    train, test = (tensors(side.examples) for side in sides)
    classes: tuple[str, ...] = ()
    if isinstance(kind, Classify):
        labels, of_test = (_groups(side) for side in sides)
        train["y"], test["y"], classes = numbers(name, labels, of_test, kind.labels or found.classes)
    rows = [example.row for example in sides[0].examples]
    natural = {column: tuple(sides[0].units[row][i] for row in rows) for i, column in enumerate(columns)}
    return Dataset(name, train, test, classes, natural, notes)


def tensors(examples: Sequence[Tokens]) -> Examples:
    """Return ``input_ids`` (N, T), padded with 0 on the right, ``length`` (N,), and ``labels`` (N, T), if any."""
    length = torch.tensor([len(example.ids) for example in examples])
    found = {"input_ids": _pad([example.ids for example in examples], 0), "length": length}
    if examples[0].labels:
        found["labels"] = _pad([example.labels for example in examples], IGNORED)
    return found


def _pad(lists: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(each) for each in lists], batch_first=True, padding_value=value)

"""Make a data set of texts: read, tokenize, split into training and test examples, and pack or pad them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedloru.data import doubts, sites
from fedloru.data.build import held_out
from fedloru.data.classes import numbers
from fedloru.data.dataset import Dataset, Examples
from fedloru.data.table import Table
from fedloru.errors import DataError, listed, quoted
from fedloru.hf.blocks import IGNORED, Tokens, packed
from fedloru.hf.counts import Counts, warnings
from fedloru.hf.encode import Classify, Kind, Plain
from fedloru.hf.remembered import encoded
from fedloru.hf.tables import Tables, keys, labels, read
from fedloru.settings import Expected, When
from fedloru.settings.types import Flag, Fraction, Place, Text, Texts, Whole

log = logging.getLogger("fedloru")

UNKNOWN = 10**9
"""A tokenizer whose ``model_max_length`` is not less than this does not know the limit of its model."""


class _Split(NamedTuple):
    """The training or the test examples; ``units`` has, for each row of the table, the values of the unit columns."""

    examples: list[Tokens]
    units: list[tuple[str, ...]]
    labels: np.ndarray[Any, Any] | None

    def subset(self, mask: Tensor) -> _Split:
        return self._replace(examples=[self.examples[i] for i in mask.nonzero().flatten().tolist()])


def load(
    tokenizer: Any,
    path: Place,
    kind: Kind,
    *,
    test: Text | None = None,
    subset: Text | None = None,
    columns: Texts = (),
    max_length: Annotated[int, Field(ge=2), Expected("an integer >= 2")] = 512,
    pack: Annotated[Flag, When("kind", ("instruct", "plain"))] = False,
    test_fraction: Fraction = 0.2,
    seed: Whole = 0,
    positions: int | None = None,
) -> Dataset:
    """Load texts as examples of up to ``max_length`` tokens.

    Args:
        tokenizer: the tokenizer of the model.
        path: a JSON, JSON Lines, CSV, TSV or parquet file, a folder, a name on the hub, or a table from names of sites
            to files. With the column file in columns or as the natural key, a folder has one file per site.
        kind: the kind of text, and its columns.
        test: a second file, or the name of a split; default: the split ``test``, or else a held-out part.
        subset: the configuration of a data set on the hub.
        columns: the columns that define units, for natural partitions: the texts with the same values in all of them
            form a unit. Without columns, the whole data set is one unit.
        max_length: the maximum number of tokens of an example.
        pack: pack the examples of a unit into blocks. Attention is not masked between the examples of a block.
        test_fraction: the fraction of each class, or of each unit, to hold out if there are no test examples.
        seed: the seed of the held-out part.
        positions: the maximum sequence length of the model.

    Raises:
        DataError: the texts, their columns, the template or the tokenizer cannot be used.
    """
    _check(tokenizer, kind, max_length, pack, positions)
    name = sites.named(path)
    tables = read(path, test, subset, kind.label if isinstance(kind, Classify) else None, columns)
    train, counts = _encode_split(tables.train, f"{name} (train)", kind, tokenizer, columns, max_length)
    if sites.FILE in columns and (not isinstance(path, str) or Path(path).is_dir()):
        _check_sites(train, columns.index(sites.FILE), name)
    if tables.test is None:
        mask = held_out(_groups(train), test_fraction, seed)
        train, tests = train.subset(~mask), train.subset(mask)
    else:
        tests, test_counts = _encode_split(tables.test, f"{name} (test)", kind, tokenizer, (), max_length)
        counts = counts.join(test_counts)
    if pack:
        train, tests = (_packed(split, max_length, whole=not isinstance(kind, Plain)) for split in (train, tests))
    notes = _notes(name, max_length, (train, tests), counts)
    return _dataset(name, kind, tables, (train, tests), columns, notes)


def _check(tokenizer: Any, kind: Kind, max_length: int, pack: bool, positions: int | None) -> None:
    limits = [size for size in (positions, tokenizer.model_max_length) if size is not None and size < UNKNOWN]
    limit = min(limits, default=UNKNOWN)
    if not 2 <= max_length <= limit:
        expected = f"2 to {limit}, the limit of the model" if limits else "2 or more"
        raise DataError(f"max_length is {max_length} tokens, expected {expected}: change data.max_length")
    if pack and isinstance(kind, Classify):
        raise DataError("texts with a class cannot be packed, since a block has only one class: leave data.pack out")


def _encode_split(
    table: Table, where: str, kind: Kind, tokenizer: Any, columns: Sequence[str], max_length: int
) -> tuple[_Split, Counts]:
    if not table.num_rows:
        raise DataError(f"{where} has no rows")
    values = keys(table, columns, where)
    classes = labels(table, kind.label, where) if isinstance(kind, Classify) else None
    examples, counts = encoded(kind, tokenizer, table, where, max_length)
    if not examples:
        raise DataError(f"{where}: no example has a token to predict within {max_length} tokens: raise data.max_length")
    units = [tuple(values[name][row] for name in columns) for row in range(table.num_rows)]
    return _Split(examples, units, classes), counts


def _check_sites(split: _Split, column: int, where: str) -> None:
    """Check that each site, which is at this place of a unit, has an example."""
    found = {split.units[example.row][column] for example in split.examples}
    if lost := [quoted(name) for name in sorted({unit[column] for unit in split.units} - found)]:
        raise DataError(
            f"{where}: no text of {listed(lost)} can be used, since the file lacks columns of the others, or all its "
            "texts are empty, too long or without an answer: mend the file, or remove it"
        )


def _groups(split: _Split) -> np.ndarray[Any, Any]:
    """Return the stratum of each example when examples are held out: its class, or the number of its unit."""
    rows = [example.row for example in split.examples]
    if split.labels is not None:
        return split.labels[rows]
    number = {unit: position for position, unit in enumerate(dict.fromkeys(split.units))}
    return np.array([number[split.units[row]] for row in rows])


def _packed(split: _Split, max_length: int, *, whole: bool) -> _Split:
    by_unit: dict[tuple[str, ...], list[Tokens]] = {}
    for example in split.examples:
        by_unit.setdefault(split.units[example.row], []).append(example)
    blocks = [block for examples in by_unit.values() for block in packed(examples, max_length, whole=whole)]
    return split._replace(examples=blocks)


def _notes(name: str, max_length: int, splits: Sequence[_Split], counts: Counts) -> dict[str, int]:
    """Count the tokens and examples that were kept and lost, and log what the user should know about them."""
    kept = sum(len(example.ids) for split in splits for example in split.examples)
    lost = counts.tokens - kept
    for message in warnings(counts, max_length, lost):
        log.warning("%s: %s", name, message)
    unanswered = {"conversations without an answer": counts.unanswered} if counts.unanswered else {}
    return {
        "tokens": kept,
        "tokens cut": lost,
        "examples cut": counts.cut,
        "examples dropped": counts.dropped,
        "empty texts": counts.empty,
        **unanswered,
    }


def _dataset(
    name: str, kind: Kind, tables: Tables, splits: tuple[_Split, _Split], columns: Sequence[str], notes: dict[str, int]
) -> Dataset:
    train, test = (tensors(split.examples) for split in splits)
    classes: tuple[str, ...] = ()
    remarks = tables.remarks
    if isinstance(kind, Classify):
        own, test_own = (_groups(split) for split in splits)
        train["y"], test["y"], classes, more = numbers(name, own, test_own, kind.labels or tables.classes)
        remarks += more
    natural, of_test = (_by_column(split, columns) for split in splits)
    remarks += doubts.of_keys(natural)
    for remark in remarks:
        log.warning("%s", remark)
    return Dataset(name, train, test, classes, natural, notes, remarks, test_columns=of_test)


def _by_column(split: _Split, columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the value of each example in the unit columns; {} for a test set that is read without them."""
    known = columns[: len(split.units[0])] if split.units else ()
    return {column: tuple(split.units[each.row][i] for each in split.examples) for i, column in enumerate(known)}


def tensors(examples: Sequence[Tokens]) -> Examples:
    """Return ``input_ids`` (N, T), padded on the right with 0, ``length`` (N,), and ``labels`` (N, T), if any."""
    length = torch.tensor([len(example.ids) for example in examples])
    batch = {"input_ids": _pad([example.ids for example in examples], 0), "length": length}
    if examples[0].labels:
        batch["labels"] = _pad([example.labels for example in examples], IGNORED)
    return batch


def _pad(lists: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(each) for each in lists], batch_first=True, padding_value=value)

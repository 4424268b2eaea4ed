"""Tokenized texts, from the cache if the same texts were tokenized before."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fedloru.cache import Entry, cached
from fedloru.data.table import Table
from fedloru.errors import DataError
from fedloru.hf.blocks import IGNORED, Tokens
from fedloru.hf.chat import prints_date
from fedloru.hf.counts import Counts, Encoded
from fedloru.hf.encode import Instruct, Kind

ENCODER = "1"
"""The version of what the cache keeps; raise it with every change of how texts are encoded."""
LIBRARIES = ("fedloru", "transformers", "tokenizers")


def encoded(kind: Kind, tokenizer: Any, table: Table, where: str, max_length: int) -> Encoded:
    """Return ``kind.encode(tokenizer, table, where, max_length)``.

    Raises:
        DataError: a column, the template or the tokenizer cannot be used.
    """
    make = partial(kind.encode, tokenizer, table, where, max_length)
    try:
        parts = [*_described(tokenizer), repr(kind), str(max_length), *_texts(kind, table)]
    except (_UnknownError, DataError):  # the latter from a column that may not be needed
        return make()
    unpack = partial(_unpack, rows=table.num_rows, vocabulary=len(tokenizer), longest=max_length)
    return cached("texts", parts, make, _pack, unpack)


class _UnknownError(Exception):
    """What a tokenizer does cannot be told from its data."""


def _described(tokenizer: Any) -> Iterator[str]:
    """Yield everything that the tokens follow from, for the tokenizers of transformers that are data."""
    kind, as_text = type(tokenizer), getattr(getattr(tokenizer, "backend_tokenizer", None), "to_str", None)
    if as_text is None or not kind.__module__.startswith("transformers.") or prints_date(tokenizer):
        raise _UnknownError
    yield ENCODER
    yield from map(version, LIBRARIES)
    yield f"{kind.__module__}.{kind.__qualname__}"
    yield as_text()
    for name in ("chat_template", "special_tokens_map", "all_special_ids", "model_max_length", "init_kwargs"):
        yield repr(getattr(tokenizer, name, None))


def _texts(kind: Kind, table: Table) -> Iterator[str]:
    for name in table.column_names if isinstance(kind, Instruct) else [kind.text]:
        yield name
        yield repr(table[name])


def _pack(made: Encoded) -> Entry:
    examples, counts = made
    lists = {
        "row": [example.row for example in examples],
        "length": [len(example.ids) for example in examples],
        "labeled": [len(example.labels) for example in examples],
        "ids": list(chain.from_iterable(example.ids for example in examples)),
        "labels": list(chain.from_iterable(example.labels for example in examples)),
    }
    return Entry({name: torch.tensor(numbers, dtype=torch.int64) for name, numbers in lists.items()}, counts._asdict())


def _unpack(entry: Entry, *, rows: int, vocabulary: int, longest: int) -> Encoded:
    row, length, ids, labels, labeled = (
        entry.tensors.get(name, torch.empty(0)) for name in ("row", "length", "ids", "labels", "labeled")
    )
    if any(tensor.dtype != torch.int64 or tensor.ndim != 1 for tensor in (row, length, ids, labels, labeled)):
        raise ValueError("these are not tokens")
    sizes = len(row) == len(length) == len(labeled) and _within(length, 1, longest + 1)
    sizes = sizes and bool(((labeled == 0) | (labeled == length)).all())
    sums = sizes and (int(length.sum()), int(labeled.sum())) == (len(ids), len(labels))
    known = labels == IGNORED
    if not sums or not (
        _within(row, 0, rows) and _within(ids, 0, vocabulary) and _within(labels[~known], 0, vocabulary)
    ):
        raise ValueError("these are not tokens of these texts")
    ids_of, labels_of = (
        [part.tolist() for part in flat.split(counts.tolist())] for flat, counts in ((ids, length), (labels, labeled))
    )
    examples = [Tokens(*each) for each in zip(row.tolist(), ids_of, labels_of, strict=True)]
    return examples, _counts(entry.facts)


def _within(values: Tensor, low: int, high: int) -> bool:
    return bool(((values >= low) & (values < high)).all())


def _counts(facts: Any) -> Counts:
    kinds = {name: str if name == "tail" else int for name in Counts._fields}
    if facts.keys() != kinds.keys() or any(type(facts[name]) is not kind for name, kind in kinds.items()):
        raise ValueError("these are not counts")
    return Counts(**facts)

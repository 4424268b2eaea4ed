"""Turn labels into class indices: match them with class names by value or, with a remark, by position."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data import doubts
from fedloru.errors import DataError, listed, quoted

TYPES = {"i": "integers", "u": "integers", "b": "booleans", "U": "text"}
"""The types of labels by the kind of their dtype."""


class Numbered(NamedTuple):
    """The class indices (N,) of training and test labels, the names of the classes, and remarks on their match."""

    train: Tensor
    test: Tensor
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def numbers(name: str, train: NDArray[Any], test: NDArray[Any], classes: Sequence[str] | None) -> Numbered:
    """Return the class indices of the labels ``train`` and ``test``.

    A label is the class that has its text as a name. If no label has one and all are positions in ``classes``, from 0,
    they are read as such, with a remark. If ``classes`` is None, the classes are the sorted labels of ``train``.

    Args:
        name: the name of the data set, for messages.
        train: integers or strings (N,).
        test: integers or strings (M,).
        classes: the names of the classes, in order.

    Raises:
        DataError: a label is not among the classes, is ambiguous, or occurs only in ``test``; or a name in
            ``classes`` is repeated.
    """
    kinds = [TYPES[labels.dtype.kind] for labels in (train, test)]
    if kinds[0] != kinds[1]:
        raise DataError(f"{name}: training labels are {kinds[0]}, but test labels are {kinds[1]}; write them alike")
    known = np.unique(train).tolist()
    names = tuple(map(str, known)) if classes is None else _names(name, classes)
    index, remarks = ({}, ()) if classes is None else _index(name, {*known, *test.tolist()}, names)
    index = index or {label: position for position, label in enumerate(known)}
    _check_known(f"{name} has test labels that no training example has", test.tolist(), set(known))
    if empty := [repr(each) for position, each in enumerate(names) if position not in map(index.get, known)]:
        remarks += (f"{name}: no training example has the class {listed(empty)}",)
    remarks += tuple(doubts.of_classes(name, train, names))
    y, y_test = (torch.tensor([index[label] for label in labels.tolist()]) for labels in (train, test))
    return Numbered(y, y_test, names, remarks)


def _names(name: str, classes: Any) -> tuple[str, ...]:
    if isinstance(classes, (str, bytes)) or not isinstance(classes, Sequence):
        raise DataError(f"{name}: expected a list of class names, got {quoted(classes)}")
    names = tuple(map(str, classes))
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise DataError(f"{name}: the class names {listed(twice)} are given more than once: rename or remove them")
    return names


def _index(name: str, labels: set[Any], names: tuple[str, ...]) -> tuple[dict[Any, int], tuple[str, ...]]:
    """Return the position in ``names`` of each label, and remarks."""
    by_name = {each: position for position, each in enumerate(names)}
    named = {label: by_name[str(label)] for label in labels if str(label) in by_name}
    if len(named) == len(labels):
        return named, ()
    positions = {label: position for label in labels if (position := _position(label)) is not None}
    if len(positions) < len(labels) or max(positions.values()) >= len(names):
        unknown = [each for each in labels if each not in named and positions.get(each, len(names)) >= len(names)]
        raise _unknown(f"{name} has labels that are not among its {len(names)} classes", unknown)
    if two := sorted(label for label in named if named[label] != positions[label]):
        raise DataError(
            f"{name}: the labels {listed(two)} are names of some classes and positions of others, and the remaining "
            "labels can only be positions; write all labels as names"
        )
    meant = [f"{label} is {names[position]!r}" for label, position in sorted(positions.items(), key=lambda p: p[1])]
    return positions, (f"{name}: labels are read as positions in the class names: {listed(meant)}",)


def _position(label: Any) -> int | None:
    text = str(label)
    return int(text) if text.isascii() and text.isdigit() and text == str(int(text)) else None


def _check_known(problem: str, labels: Iterable[Any], known: Container[Any]) -> None:
    if unknown := {label for label in labels if label not in known}:
        raise _unknown(problem, unknown)


def _unknown(problem: str, labels: Iterable[Any]) -> DataError:
    shown = sorted(labels, key=lambda label: (isinstance(label, str), label))
    return DataError(f"{problem}: {listed(list(map(repr, shown)))}; check the label column, or drop these examples")

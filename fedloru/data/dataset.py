"""Data sets: training and test examples as tensors, class names, and columns of the training examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from fedloru.advice import got, instead
from fedloru.data.examples import Examples, class_names, examples, size
from fedloru.data.targets import Kind
from fedloru.errors import DataError

if TYPE_CHECKING:
    from fedloru.data.features import Encoding

HOW = "fedloru.data.load reads files, and fedloru.data.from_tensors(x, y) takes tensors"

__all__ = ["Dataset", "Examples", "by_length", "labels", "size"]


class Scaling(NamedTuple):
    """The mean and the standard deviation by which each channel, or each feature, was standardized."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Fields(NamedTuple):
    name: str
    train: Examples
    test: Examples
    classes: tuple[str, ...]
    columns: dict[str, tuple[str, ...]] = {}
    notes: dict[str, int] = {}
    remarks: tuple[str, ...] = ()
    scaling: Scaling | None = None
    encoding: Encoding | None = None
    test_columns: dict[str, tuple[str, ...]] = {}


class Dataset(_Fields):
    """A data set in memory.

    ``columns`` hold one value per training example, such as the speaker or the hospital, for natural partitions, and
    ``test_columns`` those of the test examples, by which clients of such a partition are scored.
    ``notes`` count what happened when the data was read, such as how many tokens were cut from long texts.
    ``remarks`` are sentences about how the data was read that its user should know, such as which files were not read.
    The command line prints them, and the page of a run shows them. ``scaling`` says how ``x`` was standardized,
    and ``encoding`` of which columns of a table it was made.

    Labels ``y`` of other integer types become int64, and those of shape (N, 1) become (N,). Without classes, floating-
    point ``y``, (N,) or (N, d), are the targets of a regression. Tensors are detached.

    Raises:
        DataError: ``train`` or ``test`` is not a dict of tensors with one row per example, labels are not class
            indices, or ``x`` has values that are not finite.
    """

    __slots__ = ()

    def __new__(  # noqa: D102  # see the class
        cls,
        name: str,
        train: Examples,
        test: Examples,
        classes: Sequence[str],
        columns: Mapping[str, Sequence[str]] = {},
        notes: Mapping[str, int] = {},
        remarks: Sequence[str] = (),
        scaling: Scaling | None = None,
        encoding: Encoding | None = None,
        test_columns: Mapping[str, Sequence[str]] = {},
    ) -> Self:
        names = class_names(name, classes)
        train, test = examples(f"{name!r}, train", train, names), examples(f"{name!r}, test", test, names)
        kept, of_test = (
            _columns(f"{name!r}{side}", values, part)
            for side, values, part in (("", columns, train), (", test", test_columns, test))
        )
        return super().__new__(
            cls, name, train, test, names, kept, dict(notes), tuple(remarks), scaling, encoding, of_test
        )

    @property
    def task(self) -> Kind:
        """Whether examples have classes or texts, or floating-point targets that a regression predicts."""
        y = self.train.get("y", self.test.get("y"))
        is_target = y is not None and y.is_floating_point() and not self.classes
        return "regression" if is_target else "classification"

    def __repr__(self) -> str:
        """Return the sizes of the data set, the shape of an example and its columns in one line."""
        parts = [
            f"{size(self.train):,} training and {size(self.test):,} test examples{_shape(self.train or self.test)}"
        ]
        parts += [f"{len(self.classes):,} classes"] if self.classes else []
        parts += [f"columns {', '.join(map(repr, self.columns))}"] if self.columns else []
        return f"Dataset({self.name!r}, {', '.join(parts)})"


def _columns(where: str, columns: Mapping[str, Sequence[str]], examples: Examples) -> dict[str, tuple[str, ...]]:
    for column, values in columns.items():
        if examples and len(values) != size(examples):
            raise DataError(f"{where}: column {column!r} has {len(values)} values for {size(examples)} examples")
    return {column: tuple(values) for column, values in columns.items()}


def _shape(examples: Examples) -> str:
    given: dict[str, Any] = examples  # ``_replace`` checks nothing
    shapes = {key: tuple(value.shape[1:]) for key, value in given.items() if isinstance(value, Tensor)}
    if "x" in shapes:
        return f" of shape {shapes['x']}"
    return f" of {', '.join(map(repr, examples))}" if examples else ""


def dataset_problem(dataset: Any) -> str | None:
    """Return what to do if ``dataset`` is not a ``Dataset`` of tensors, or None if it is one."""
    if not isinstance(dataset, Dataset):
        return f"the data is {got(dataset)}, expected a fedloru.data.Dataset: {instead(dataset) or HOW}"
    parts: dict[str, Any] = {"train": dataset.train, "test": dataset.test}  # ``_replace`` checks nothing
    for name, found in parts.items():
        if not isinstance(found, dict):
            return (
                f"the {name} examples are a {type(found).__name__}, expected a dict of tensors: {instead(found) or HOW}"
            )
        if other := [key for key, value in found.items() if not isinstance(value, Tensor)]:
            kind = type(found[other[0]]).__name__
            return f"{other[0]!r} of the {name} examples is a {kind}, expected a tensor: use torch.as_tensor"
    return None


def check_dataset(dataset: Any) -> None:
    """Check that ``dataset`` is a ``Dataset`` of tensors.

    Raises:
        DataError: it is something else, such as a DataLoader.
    """
    if problem := dataset_problem(dataset):
        raise DataError(problem)


def by_length(examples: Examples, *, longest_first: bool = True) -> Tensor:
    """Return all rows (N,) sorted by length, or in the given order if examples have no length."""
    if "length" in examples:
        return examples["length"].argsort(descending=longest_first, stable=True)
    return torch.arange(size(examples))


def labels(dataset: Dataset) -> Tensor | None:
    """Return the class of every training example, (N,) int64, or None if examples have no single class."""
    y = dataset.train.get("y")
    return y if y is not None and y.ndim == 1 and dataset.classes else None

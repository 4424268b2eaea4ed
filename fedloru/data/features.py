"""The features of a table as numbers: ``fit`` learns an ``Encoding`` from training rows, and ``encode`` applies it.

A numeric column is one feature. A column of categories has one feature per category, which is 1 where the row has it;
a value that no training row has is 0 in all of them. Missing values are refused, or filled by a rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloru.data import cells
from fedloru.data.dataset import Scaling
from fedloru.data.memory import check_size
from fedloru.data.table import Table
from fedloru.errors import DataError, choices, counted, listed, quoted

Missing = Literal["refuse", "median", "mean", "indicator"]
NUMBER = "number"
"""The declaration of a numeric column, where columns of categories list them."""
MAX_CATEGORIES = 1000
"""The maximum number of categories of a column; one with more is text, or an identifier."""
FEW = 20
"""A column of more different values than this, one for each row, is an identifier."""

Kinds = Mapping[str, Sequence[str] | None]
"""The categories of each column; None for numbers."""
Columns = Mapping[str, NDArray[Any]]
"""The values of each column: numbers with NaN, or texts with None."""


class Encoding(NamedTuple):
    """How columns of a table become features, in order.

    ``columns`` has the categories of each column, or None for numbers; ``fill`` has the values for missing ones by
    column; with ``indicator``, each column has one more feature that is 1 where the value was missing. ``na`` are texts
    that stand for missing values.
    """

    columns: dict[str, tuple[str, ...] | None]
    fill: dict[str, float | str]
    indicator: bool = False
    scaling: Scaling | None = None
    na: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each feature: ``age``, ``sex=female``, ``age is missing``."""
        found: list[str] = []
        for name, known in self.columns.items():
            found += [name] if known is None else [f"{name}={each}" for each in known]
            found += [f"{name} is missing"] if self.indicator else []
        return tuple(found)

    @property
    def declaration(self) -> dict[str, str | list[str]]:
        """The columns as ``data.features`` declares them."""
        return {name: NUMBER if known is None else list(known) for name, known in self.columns.items()}


def read(table: Table, kinds: Mapping[str, bool], na: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the columns of ``table``; ``kinds`` says for each whether it has numbers.

    Raises:
        DataError: a column is missing, or a value cannot be read as such.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, numeric in kinds.items():
        values = cells.numbers(table, name, na) if numeric else cells.categories(table, name, na)
        found[name] = np.asarray(values, dtype=np.float64 if numeric else object)
    return found


def check_filled(names: Collection[str], missing: Missing, fill: Mapping[str, float | str]) -> None:
    """Check that ``fill`` has values for columns among ``names``, and that missing values are filled.

    Raises:
        DataError: ``fill`` would have no effect.
    """
    if fill and missing == "refuse":
        raise DataError("data.fill is set, but data.missing is 'refuse': set it to 'median', 'mean' or 'indicator'")
    for name in fill:
        if name not in names:
            raise DataError(f"data.fill has {name!r}, which is no column of features{choices(name, names)}")


def check_complete(table: Table, columns: Columns) -> None:
    """Check that no value is missing.

    Raises:
        DataError: some are; the message names the first and counts those of each column.
    """
    lacking = {name: rows for name, values in columns.items() if len(rows := is_missing(values).nonzero()[0])}
    if lacking:
        name, rows = next(iter(lacking.items()))
        counts = [f"{len(each):,} in {quoted(column)}" for column, each in lacking.items()]
        raise DataError(
            f"{table.place(int(rows[0]))} has no value in column {name!r}; {listed(counts)} are missing. Set "
            "data.missing (missing in Python) to 'median', 'mean' or 'indicator', drop these rows, or leave the "
            "columns out with features"
        )


def fit(
    columns: Columns,
    declared: Mapping[str, tuple[str, ...]],
    missing: Missing,
    fill: Mapping[str, float | str] | None,
    standardize: bool,
) -> Encoding:
    """Return the encoding of the training rows ``columns``; ``declared`` categories and ``fill`` are not learned.

    Raises:
        DataError: a column has too many categories, or has no value to learn from; or ``fill`` has another kind.
    """
    kinds = {name: _known(name, values, declared.get(name)) for name, values in columns.items()}
    rule = None if missing == "refuse" else missing
    filled = {} if rule is None else {name: _fill(name, columns[name], kinds[name], rule, fill or {}) for name in kinds}
    encoding = Encoding(kinds, filled, missing == "indicator")
    return encoding._replace(scaling=_scaling(encoding, columns)) if standardize else encoding


def encode(encoding: Encoding, columns: Columns) -> tuple[Tensor, Counter[str]]:
    """Return the features (N, d) float64, before they are standardized, and the number of unknown values by column."""
    parts, unknown = [], Counter[str]()
    rows = len(next(iter(columns.values()), ()))
    check_size(rows * len(encoding.names), 8, f"{rows:,} rows of {len(encoding.names):,} features")
    for name, known in encoding.columns.items():
        values, lacking = columns[name], is_missing(columns[name])
        if name in encoding.fill:
            values = np.where(lacking, np.array(encoding.fill[name], values.dtype), values)
        if known is None:
            parts.append(values[:, None].astype(np.float64))
        else:
            parts.append(one_hot := np.stack([values == each for each in known], 1).astype(np.float64))
            unknown[name] += int((one_hot.sum(1) == 0).sum())
        parts += [lacking[:, None].astype(np.float64)] if encoding.indicator else []
    return torch.from_numpy(np.concatenate(parts, 1)), +unknown


def remarks(where: str, unknown: Mapping[str, int]) -> Iterator[str]:
    """Yield a remark for each column with values that are not among its categories."""
    for name, count in unknown.items():
        rows = counted(count, f"{where} row has", f"{where} rows have")
        yield f"{rows} a value in column {name!r} that is not among its categories, and 0 in all its features"


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where ``values`` (N,) are NaN or None."""
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    found: NDArray[np.bool_] = np.isnan(values)
    return found


def _known(name: str, values: NDArray[Any], declared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if values.dtype != object:
        return None
    if declared is not None:
        return declared
    present = [value for value in values if value is not None]
    known = tuple(sorted(set(present)))
    if len(known) > MAX_CATEGORIES or len(present) == len(known) > FEW:
        raise DataError(
            f"column {name!r} has {len(known):,} different texts in {len(present):,} rows, like free text or an "
            "identifier: leave it out with data.features, which lists the columns to use"
        )
    return known


def _fill(
    name: str, values: NDArray[Any], known: Sequence[str] | None, rule: str, given: Mapping[str, float | str]
) -> float | str:
    """Return the value for missing ones of a column, of numbers or of the ``known`` categories."""
    if name in given:
        if isinstance(given[name], str) if known is None else given[name] not in known:
            wanted = "a number" if known is None else f"one of its categories: {listed(known)}"
            raise DataError(f"data.fill has {quoted(given[name])} for column {name!r}, expected {wanted}")
        return given[name]
    present = values[~is_missing(values) if known is None else np.isin(values, known)]
    if not len(present):
        raise DataError(
            f"column {name!r} has no value in any training row, so there is none to fill in: leave it out with "
            "data.features, or set data.fill"
        )
    if known is not None:
        counts = Counter(present.tolist())
        return str(min(counts, key=lambda value: (-counts[value], value)))
    return float(present.mean() if rule == "mean" else np.median(present))


def _scaling(encoding: Encoding, columns: Columns) -> Scaling:
    """Return the mean and the standard deviation of numeric columns; other features stay 0 and 1."""
    moments: list[tuple[float, float]] = []
    for name, known in encoding.columns.items():
        moments += [_moments(columns[name], encoding.fill.get(name))] if known is None else [(0.0, 1.0)] * len(known)
        moments += [(0.0, 1.0)] if encoding.indicator else []
    mean, std = zip(*moments, strict=True)
    return Scaling(mean, std)


def _moments(values: NDArray[Any], fill: float | str | None) -> tuple[float, float]:
    filled = values if fill is None else np.where(np.isnan(values), fill, values)
    mean, std = float(filled.mean()), float(filled.std())
    return mean, std if std > 1e-6 * abs(mean) else 1.0  # a constant column is not divided by a tiny number

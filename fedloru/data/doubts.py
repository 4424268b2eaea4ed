"""Remarks on values that may not mean what they say: spellings, missing values, and targets taken for classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from fedloru.errors import listed, quoted

MISSING_NAMES = frozenset({"none", "nan", "null", "na", "n/a", "nat", "<na>"})
"""Texts that other programs write for missing values, in lower case."""
LARGE = 30.0
"""Features and targets whose values are larger than this are better scaled."""
MANY_CLASSES, FEW_EXAMPLES = 20, 10
"""With more integer classes than this, and fewer examples per class, labels may be the targets of a regression."""


def of_keys(columns: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return remarks on keys such as "None" or "nan", and on keys that are spelled in several ways."""
    remarks: list[str] = []
    for name, values in columns.items():
        for text in _missing(values):
            remarks.append(
                f"column {name!r} has the text {text!r} in {values.count(text):,} rows, which is used as a key; "
                "drop these rows if it stands for a missing value"
            )
        remarks += _spellings(values, f"column {name!r}")
    return tuple(remarks)


def of_categories(columns: Mapping[str, Sequence[str] | None]) -> Iterator[str]:
    """Yield remarks on categories such as "NA", and on those that are spelled in several ways."""
    for name, known in columns.items():
        for text in _missing(known or ()):
            yield f"column {name!r} has the category {text!r}; if it stands for a missing value, list it in data.na"
        yield from _spellings(known or (), f"column {name!r}")


def of_classes(name: str, labels: NDArray[Any], classes: Sequence[str]) -> Iterator[str]:
    """Yield remarks on the ``classes`` that were found in ``labels`` (N,) of the data set ``name``."""
    for text in _missing(classes):
        yield f"{name} has the class {text!r}; drop its examples if it stands for a missing label"
    yield from _spellings(classes, name)
    digits = [each for each in classes if each.strip().isdecimal()]
    if labels.dtype.kind == "U" and 0 < len(digits) < len(classes):
        others = [each for each in classes if each not in digits]
        yield (
            f"{name} has numbers and words as classes: {listed(_quoted(digits))}; and {listed(_quoted(others))}. If "
            "they mean the same, write all labels alike"
        )
    if len(classes) == 1:
        yield f"{name} has only the class {classes[0]!r}, so there is nothing to learn: check the column of labels"


def of_integers(name: str, labels: NDArray[Any], classes: Sequence[str]) -> Iterator[str]:
    """Yield a remark on integer ``labels`` (N,) with so many ``classes`` that they may be targets."""
    if labels.dtype.kind in "iu" and len(classes) > MANY_CLASSES and len(labels) < FEW_EXAMPLES * len(classes):
        yield (
            f"{name} has {len(classes):,} different integers as labels, and each is a class; if they are the targets "
            "of a regression, set data.task (task in Python) to 'regression'"
        )


def of_targets(name: str, targets: Tensor) -> Iterator[str]:
    """Yield a remark on ``targets``, (N,) or (N, d), that are large."""
    if (largest := float(targets.abs().max())) > LARGE:
        yield (
            f"{name} has targets of up to {largest:,.6g}, with which training may diverge: subtract their mean and "
            "divide by their standard deviation first"
        )


def _missing(texts: Iterable[str]) -> list[str]:
    return sorted({text for text in texts if text.strip().lower() in MISSING_NAMES})


def _spellings(texts: Iterable[str], where: str) -> Iterator[str]:
    """Yield a remark if some ``texts`` differ from others only in case, or in white space."""
    found: dict[str, list[str]] = defaultdict(list)
    for text in sorted(set(texts)):
        found[" ".join(text.casefold().split())].append(text)
    if several := [" and ".join(_quoted(same)) for same in found.values() if len(same) > 1]:
        yield (
            f"{where} has {listed(several)}, which differ only in case or spaces: write them alike if they mean the "
            "same"
        )


def _quoted(texts: Iterable[str]) -> list[str]:
    return [quoted(text) for text in texts]

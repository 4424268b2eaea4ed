"""Where data comes from: a table of readers, and ``load``, which turns what they read into a ``Dataset``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedloru.data import arrays, tables
from fedloru.data.build import build
from fedloru.data.dataset import Dataset
from fedloru.data.raw import Query, Raw, Reader
from fedloru.errors import DataError, choices

SOURCES: dict[str, Reader] = {
    "mnist5k": arrays.mnist5k,
    "digits": arrays.digits,
    "synthetic": arrays.mixture,
    "parquet": tables.parquet,
    "folder": arrays.folder,
    "npz": arrays.npz,
    "hub": tables.hub,
}
"""What ``load`` can read, by the name it has in a configuration."""


def load(
    source: str,
    *,
    path: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    image: str = "image",
    label: str = "label",
    columns: Sequence[str] = (),
) -> Dataset:
    """Load a data set from one of ``SOURCES``, with images or vectors standardised on the training examples.

    ``test_fraction`` of each class is held out, drawn by ``seed``, where the source has no test set of its own.
    ``image``, ``label`` and ``columns`` name columns; ``columns`` are kept as strings, for natural partitions.

    Raises:
        DataError: the source is unknown, or what it holds is missing or malformed.
    """
    if source not in SOURCES:
        raise DataError(f"there is no data source {source!r}{choices(source, SOURCES)}")
    raw = SOURCES[source](Query(source, path, image, label, tuple(columns), seed))
    return build(Path(path).stem if path else source, raw, test_fraction=test_fraction, seed=seed)


def synthetic(
    examples: int = 2000,
    shape: Sequence[int] = (32,),
    classes: int = 10,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Make a classification problem, a mixture of Gaussians, of ``examples`` in all.

    ``shape`` is that of an example, (d,) or (C, H, W).

    Raises:
        DataError: fewer than 2 examples a class.
    """
    if examples < 2 * classes:
        raise DataError(f"{examples} examples are too few for {classes} classes: at least {2 * classes} are needed")
    rows = arrays.gaussians(examples, shape, classes, seed)
    return build("synthetic", Raw(rows), test_fraction=test_fraction, seed=seed)

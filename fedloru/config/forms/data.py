"""Where the data of a run comes from: embedded, tables, arrays or image folders."""

from __future__ import annotations

from typing import Literal

from fedloru.config.fields import Fraction, Section, Text, Texts, Whole


class _Data(Section):
    test_fraction: Fraction = 0.2
    """Part of each class that is held out to test on, where the source has no test set of its own."""
    seed: Whole = 0
    """Draws what is held out. It does not follow the run's seed, so that runs are tested on the same examples."""


class EmbeddedData(_Data):
    """Data that needs no file: 5,000 MNIST digits (28×28), 1,797 digits (8×8), or made-up vectors."""

    source: Literal["mnist5k", "digits", "synthetic"] = "mnist5k"
    """Where the examples come from."""


class TableData(_Data):
    """Parquet files of encoded images, or a data set of the Hugging Face hub."""

    source: Literal["parquet", "hub"] = "parquet"
    """Where the examples come from."""
    path: Text
    """A file or folder, seen from the working directory; for the hub also the name of a data set."""
    image: Text = "image"
    """The column of encoded images."""
    label: Text = "label"
    """The column of labels."""
    columns: Texts = []
    """Further columns to keep, for natural partitions."""


class ArrayData(_Data):
    """A NumPy archive with the arrays x and y, and perhaps x_test and y_test."""

    source: Literal["npz"] = "npz"
    """Where the examples come from."""
    path: Text
    """The file, seen from the working directory."""
    columns: Texts = []
    """Further arrays to keep, for natural partitions."""


class FolderData(_Data):
    """Image files in path/train/CLASS and path/test/CLASS, or in path/CLASS."""

    source: Literal["folder"] = "folder"
    """Where the examples come from."""
    path: Text
    """The folder, seen from the working directory."""


Data = EmbeddedData | TableData | ArrayData | FolderData

"""Data frames of pandas and Arrow tables as tables."""

from __future__ import annotations

from typing import Any

from fedloru.advice import got, hint
from fedloru.data.parquet_rows import class_names, without_index
from fedloru.data.table import Table, check_names, from_arrow, rows_of
from fedloru.data.values import plain
from fedloru.errors import DataError, optional


def frame(df: Any, what: str) -> Table:
    """Return a pandas ``DataFrame`` as a table; ``what`` names it in messages.

    Raises:
        DataError: it is something else, or a column has no name that is different from all others.
    """
    if not any(base.__name__ == "DataFrame" and base.__module__.split(".")[0] == "pandas" for base in type(df).__mro__):
        raise DataError(f"{what} is {got(df)}, expected a pandas DataFrame{hint(df)}")
    if df.columns.nlevels > 1:
        raise DataError(f"{what} has columns of {df.columns.nlevels} levels: give each column one name")
    names = [str(column) for column in df.columns]
    check_names(names, what)
    columns = {name: plain(df.iloc[:, at].tolist()) for at, name in enumerate(names)}
    return Table(columns, what, rows_of(what))


def arrow(table: Any, what: str) -> Table:
    """Return a pyarrow ``Table`` or ``RecordBatch`` as a table; ``what`` names it in messages.

    Raises:
        DataError: it is something else, or lists class names that are none.
        MissingExtraError: pyarrow is not installed.
    """
    pa = optional("pyarrow", extra="data", purpose="reading Arrow tables")
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if not isinstance(table, pa.Table):
        raise DataError(f"{what} is {got(table)}, expected a pyarrow Table{hint(table)}")
    return from_arrow(without_index(table), what, classes=class_names(table, what))

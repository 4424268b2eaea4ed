"""How raw values become the inputs of a model: what an export says about it, and new rows of a table as inputs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from fedloru.data import features, files, frames
from fedloru.data.build import standardize
from fedloru.data.dataset import Dataset, Scaling
from fedloru.data.features import Encoding
from fedloru.data.table import Table
from fedloru.errors import DataError, quoted
from fedloru.reading import UnreadableError, read_json

log = logging.getLogger("fedloru")

FACTS = "fedloru.json"
"""The file of an export that says how its model was trained."""


class Inputs(BaseModel):
    """What turns the values of an example into the input of a model, as ``inputs`` of ``fedloru.json``.

    ``mean`` and ``std`` standardize each channel, or each feature. The others are those of an ``Encoding``, and empty
    for data that is no table.
    """

    model_config = ConfigDict(strict=True)

    shape: list[int]
    mean: list[float] = []
    std: list[float] = []
    columns: dict[str, list[str] | None] = {}
    fill: dict[str, float | str] = {}
    indicator: bool = False
    na: list[str] = []

    @property
    def encoding(self) -> Encoding:
        """The encoding of the columns of a table, without its scaling."""
        columns = {name: None if known is None else tuple(known) for name, known in self.columns.items()}
        return Encoding(columns, self.fill, self.indicator, na=tuple(self.na))


def described(dataset: Dataset) -> dict[str, Any]:
    """Return the fields of ``Inputs`` that ``dataset`` has, for JSON; {} for texts and for data that is unknown."""
    if "x" not in dataset.train:
        return {}
    found: dict[str, Any] = {"shape": list(dataset.train["x"].shape[1:])}
    if dataset.scaling is not None:
        found |= {"mean": list(dataset.scaling.mean), "std": list(dataset.scaling.std)}
    if (encoding := dataset.encoding) is not None:
        columns = {name: None if known is None else list(known) for name, known in encoding.columns.items()}
        found |= {"columns": columns, "fill": encoding.fill, "indicator": encoding.indicator, "na": list(encoding.na)}
    return found


def encode(rows: Any, export: str | Path) -> Tensor:
    """Return rows of a table as inputs for the model of an export, encoded as the training rows were.

    Args:
        rows: a pandas DataFrame, a pyarrow Table, or the path of a file (CSV, TSV, JSON, JSON Lines or parquet) with
            the columns of the training rows. Other columns are ignored.
        export: the folder of the export.

    Returns:
        The inputs (N, d), float32.

    Raises:
        DataError: ``export`` has no model of a table; a column is missing; or a value cannot be used, such as a missing
            one if the model was trained without any. The message names the row.

    Example:
        >>> x = fedloru.data.encode("new-patients.csv", "heart-model")
        >>> scores = model(x)
    """
    inputs = _read(Path(export))
    table, encoding = _table(rows), inputs.encoding
    if not table.num_rows:
        raise DataError(f"{table.where} has no rows")
    columns = features.read(table, {name: known is None for name, known in encoding.columns.items()}, encoding.na)
    for name, values in columns.items():
        if name not in encoding.fill and len(lacking := features.is_missing(values).nonzero()[0]):
            raise DataError(
                f"{table.place(int(lacking[0]))} has no value in column {name!r}, and the model was trained without "
                "missing values: fill it in"
            )
    x, unknown = features.encode(encoding, columns)
    for remark in features.remarks(table.where, unknown):
        log.warning("%s", remark)
    return standardize(x, Scaling(tuple(inputs.mean), tuple(inputs.std))) if inputs.mean else x.float()


def _read(export: Path) -> Inputs:
    path = export / FACTS
    try:
        inputs = Inputs.model_validate(read_json(path, dict).get("inputs", {}))
    except FileNotFoundError as error:
        raise DataError(f"{export} is not an export: it has no {FACTS}; write one with fedloru export") from error
    except (OSError, UnreadableError, ValidationError) as error:
        raise DataError(f"{path} does not say how rows become inputs: export the run again") from error
    if not inputs.columns:
        raise DataError(f"{path} is of a model that was not trained on a table: prepare its inputs as for training")
    width = len(inputs.encoding.names)
    scaled = len(inputs.mean) == len(inputs.std) in (0, width) and min(inputs.std, default=1.0) > 0
    if inputs.shape != [width] or not scaled:
        raise DataError(f"{path} has columns of {width} features, but another shape or scaling: export the run again")
    return inputs


def _table(rows: Any) -> Table:
    if isinstance(rows, str | Path):
        if not Path(rows).is_file():
            raise DataError(f"there is no file {quoted(str(rows))}: check the path")
        return files.read(Path(rows))
    module = type(rows).__module__.split(".")[0]
    return frames.arrow(rows, "the table") if module == "pyarrow" else frames.frame(rows, "the data frame")

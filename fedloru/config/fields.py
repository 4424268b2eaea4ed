"""What the sections of a configuration are made of: the kinds that all settings have, and those only written here."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic.fields import FieldInfo

from fedloru.kinds import Betas, Count, Expected, Flag, NotNegative, Positive, Share, Whole, either, spoken, words

__all__ = [
    "Alphas",
    "Betas",
    "Capacities",
    "Count",
    "Counts",
    "Expected",
    "Flag",
    "Fraction",
    "NotNegative",
    "Positive",
    "Ranks",
    "Section",
    "Share",
    "Tau",
    "Text",
    "Texts",
    "Whole",
    "either",
    "expected",
]


class Section(BaseModel):
    """A table of the configuration: no unknown keys, no coercion, never changed once made."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _tau(value: Any) -> Any:
    cycles = value if isinstance(value, list) else [value]
    whole = all(type(cycle) is int and cycle >= 1 for cycle in cycles)
    if value != math.inf and not (cycles and whole):
        raise ValueError("not an accumulation cycle")
    return value


Fraction = Annotated[float, Field(gt=0, lt=1), Expected("a number between 0 and 1")]
Text = Annotated[str, Field(min_length=1), Expected("a string")]
Texts = Annotated[list[str], Expected("a list of strings")]
Counts = Annotated[list[Count], Expected("a list of whole numbers from 1")]
Ranks = Annotated[dict[str, Count], Expected("a table from globs to whole numbers from 1")]
Alphas = Annotated[dict[str, Positive], Expected("a table from globs to numbers above 0")]
Capacities = Annotated[
    dict[Annotated[str, Field(pattern=r"^[1-9]\d*$")], Fraction],
    Expected("a table from ranks, whole numbers from 1, to shares between 0 and 1"),
]
Tau = Annotated[
    int | float | list[int],
    PlainValidator(_tau),
    Expected("a whole number of rounds from 1, a list of them, or inf"),
]


def expected(field: FieldInfo) -> str:
    """Return in words what a setting may be."""
    return words(field.metadata) or spoken(field.annotation)

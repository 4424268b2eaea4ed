"""The kinds of values that settings have, each with the words that say what is expected.

The same words stand in an error message and in the documentation of the configuration.
"""

from __future__ import annotations

import math
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, Strict
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A table of the configuration: no unknown keys, no coercion, never changed once made."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Words(NamedTuple):
    """What is expected, to stand after "expected"."""

    text: str


def _tau(value: Any) -> Any:
    cycles = value if isinstance(value, list) else [value]
    whole = all(type(cycle) is int and cycle >= 1 for cycle in cycles)
    if value != math.inf and not (cycles and whole):
        raise ValueError("not an accumulation cycle")
    return value


Whole = Annotated[int, Field(ge=0), Words("a whole number from 0")]
Count = Annotated[int, Field(ge=1), Words("a whole number from 1")]
Positive = Annotated[float, Field(gt=0), Words("a number above 0")]
NotNegative = Annotated[float, Field(ge=0), Words("a number from 0")]
Share = Annotated[float, Field(ge=0, lt=1), Words("a number from 0 to below 1")]
Fraction = Annotated[float, Field(gt=0, lt=1), Words("a number between 0 and 1")]
Flag = Annotated[bool, Words("true or false")]
Text = Annotated[str, Field(min_length=1), Words("a string")]
Texts = Annotated[list[str], Words("a list of strings")]
Counts = Annotated[list[Count], Words("a list of whole numbers from 1")]
Ranks = Annotated[dict[str, Count], Words("a table from globs to whole numbers from 1")]
Alphas = Annotated[dict[str, Positive], Words("a table from globs to numbers above 0")]
Capacities = Annotated[
    dict[Annotated[str, Field(pattern=r"^[1-9]\d*$")], Fraction],
    Words("a table from ranks, whole numbers from 1, to shares between 0 and 1"),
]
Betas = Annotated[tuple[Share, Share], Strict(False), Words("two numbers from 0 to below 1")]
Tau = Annotated[
    int | float | list[int],
    PlainValidator(_tau),
    Words("a whole number of rounds from 1, a list of them, or inf"),
]


def expected(field: FieldInfo) -> str:
    """Return in words what a setting may be."""
    return _spoken(field.metadata) or _of_type(field.annotation)


def either(options: Any) -> str:
    """Return options as they are written in TOML, with "or" before the last."""
    *others, last = [f"'{option}'" for option in options]
    return f"{', '.join(others)} or {last}" if others else last


def _of_type(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _spoken(get_args(annotation)[1:])
    if get_origin(annotation) is Literal:
        return either(get_args(annotation))
    return next(_of_type(option) for option in get_args(annotation) if option is not NoneType)


def _spoken(metadata: Any) -> str:
    return next((item.text for item in metadata if isinstance(item, Words)), "")

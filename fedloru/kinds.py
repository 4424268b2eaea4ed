"""The kinds of values that settings have, each with the words that say what is expected.

The same words stand in an error message, in the documentation of the configuration, and in what is said to Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError


class Expected(NamedTuple):
    """What is expected, to stand after "expected"."""

    text: str


Whole = Annotated[int, Field(ge=0), Expected("a whole number from 0")]
Count = Annotated[int, Field(ge=1), Expected("a whole number from 1")]
Positive = Annotated[float, Field(gt=0), Expected("a number above 0")]
NotNegative = Annotated[float, Field(ge=0), Expected("a number from 0")]
Share = Annotated[float, Field(ge=0, lt=1), Expected("a number from 0 to below 1")]
Betas = Annotated[tuple[Share, Share], Strict(False), Expected("two numbers from 0 to below 1")]
Flag = Annotated[bool, Expected("true or false")]


def spoken(annotation: Any) -> str:
    """Return in words what a value of this kind may be; "" where it is no kind."""
    if get_origin(annotation) is Annotated:
        return words(get_args(annotation)[1:])
    if get_origin(annotation) is Literal:
        return either(get_args(annotation))
    return next((said for option in get_args(annotation) if (said := spoken(option))), "")


def words(metadata: Any) -> str:
    """Return the words among what an annotation carries; "" where there are none."""
    return next((item.text for item in metadata if isinstance(item, Expected)), "")


def either(options: Any) -> str:
    """Return options as they are written in TOML, with "or" before the last."""
    *others, last = [f"'{option}'" for option in options]
    return f"{', '.join(others)} or {last}" if others else last


def problems(settings: NamedTuple) -> Iterator[str]:
    """Yield each setting that is not of the kind it is annotated with: its name, its value and what is expected."""
    exact = ConfigDict(strict=True, allow_inf_nan=False)
    for name, kind in get_type_hints(type(settings), include_extras=True).items():
        value, expected = getattr(settings, name), spoken(kind)
        if not expected:
            continue
        try:
            TypeAdapter(kind, config=exact).validate_python(value)
        except ValidationError:
            yield f"{name} is {value!r}, expected {expected}{' or None' if NoneType in get_args(kind) else ''}"

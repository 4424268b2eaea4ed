"""The types of settings, each with a phrase for the values that are expected.

Error messages and the documentation of the configuration use the same phrases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BeforeValidator, Field, Strict


class Expected(NamedTuple):
    """The phrase that follows "expected" in a message."""

    text: str


class When(NamedTuple):
    """Marks a setting that only has an effect if the setting ``key`` of the same section has one of ``values``."""

    key: str
    values: tuple[str, ...]


class Per(NamedTuple):
    """Marks a setting that is chosen for one value of the setting ``key`` of the same section."""

    key: str


class RunSize(NamedTuple):
    """The number of rounds of a run, and the share of its clients that take part in each."""

    rounds: int
    share: float = 1.0


class FromSize(NamedTuple):
    """Marks a setting whose default in a run is ``choose(settings, size)``, given all settings of the same section."""

    choose: Callable[[Mapping[str, Any], RunSize], Any]


def listed(value: Any) -> Any:
    """Return a tuple as a list, and reject a string, which is itself a sequence of strings."""
    if isinstance(value, str):
        raise ValueError("a string is not a list")
    return list(value) if isinstance(value, tuple) else value


Whole = Annotated[int, Field(ge=0), Expected("an integer >= 0")]
Count = Annotated[int, Field(ge=1), Expected("an integer >= 1")]
Positive = Annotated[float, Field(gt=0), Expected("a number > 0")]
NotNegative = Annotated[float, Field(ge=0), Expected("a number >= 0")]
Share = Annotated[float, Field(ge=0, lt=1), Expected("a number in [0, 1)")]
Fraction = Annotated[float, Field(gt=0, lt=1), Expected("a number in (0, 1)")]
Betas = Annotated[tuple[Share, Share], Strict(False), Expected("two numbers in [0, 1)")]
Flag = Annotated[bool, Expected("true or false")]
Text = Annotated[str, Field(min_length=1), Expected("a string")]
Place = Annotated[
    Text | Annotated[Mapping[Text, Text], Field(min_length=1)],
    Expected("a string, or a table from names of sites to files"),
]
Texts = Annotated[Sequence[str], BeforeValidator(listed), Expected("a list of strings")]
Counts = Annotated[Sequence[Count], BeforeValidator(listed), Expected("a list of integers >= 1")]
Ordered = Annotated[
    str, Field(pattern=r"^(lowest|highest) \w+$"), Expected("'lowest' or 'highest' and a score, such as 'lowest loss'")
]
Ranks = Annotated[Mapping[str, Count], Expected("a table from globs to integers >= 1")]
Alphas = Annotated[Mapping[str, Positive], Expected("a table from globs to numbers > 0")]

PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "a string", dict: "a table", list: "a list"}
"""The phrases for plain types, which methods, models and sources of other packages may use."""


def expectation(annotation: Any) -> str:
    """Return the phrase for the values of a type; "" if it has none."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        found = next((item.text for item in metadata if hasattr(item, "text")), "")
        return found or expectation(inner)
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return next((phrase for option in get_args(annotation) if (phrase := expectation(option))), "")
    return PLAIN.get(get_origin(annotation) or annotation, "")


def one_of(options: Iterable[Any]) -> str:
    """Return quoted options, with "or" before the last."""
    *others, last = [f"'{option}'" for option in options]
    return f"{', '.join(others)} or {last}" if others else last

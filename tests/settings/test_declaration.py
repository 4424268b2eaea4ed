"""Settings are read from signatures and docstrings, and checked by their declared types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, Unpack

import pytest
from pydantic import Field

from fedloru.errors import ConfigError
from fedloru.settings import (
    REQUIRED,
    Expected,
    Setting,
    When,
    check,
    expectation,
    help_of,
    one_of,
    problems_of,
    settings_of,
    summary_of,
)
from fedloru.settings.declaration import takes_more
from fedloru.settings.types import (
    Alphas,
    Betas,
    Count,
    Counts,
    Flag,
    Fraction,
    NotNegative,
    Positive,
    Ranks,
    Share,
    Text,
    Texts,
    Whole,
)


def function(
    data: Any, /, required: Count, rate: Positive = 0.1, *more: int, mode: Literal["a", "b"] = "a", **others: Any
) -> None:
    """Summarize the function
    in two lines.

    More about it.

    Args:
        data: a positional-only parameter.
        required: the number of steps.
        rate: the rate, whose help
            spans two lines.
        mode: the mode.
    """


class Record(NamedTuple):
    """A record.

    Args:
        size: the size.
    """

    size: Count
    name: str = "record"


@dataclass(frozen=True)
class Data:
    """A data class.

    Args:
        path: the path of the file.
    """

    path: Text
    share: Annotated[Share, When("kind", ("c", "d"))] = 0.5


class Options(TypedDict, total=False):
    tau: Count


def base(*, tau: Count = 3) -> None:
    """Base.

    Args:
        tau: the cycle.
    """


def extended(*, own: Flag = False, **settings: Unpack[Options]) -> None:
    """Extended.

    Args:
        own: a flag.
    """


extended.extends = base  # type: ignore[attr-defined]


def test_settings_of_a_function_are_its_named_parameters_in_order() -> None:
    found = settings_of(function)
    assert list(found) == ["required", "rate", "mode"]
    assert found["required"] == Setting("required", Count, REQUIRED, "the number of steps.")
    assert found["rate"] == Setting("rate", Positive, 0.1, "the rate, whose help spans two lines.")
    assert (found["mode"].default, found["mode"].expected) == ("a", "'a' or 'b'")


def test_skipped_names_are_not_settings() -> None:
    assert list(settings_of(function, skip=frozenset({"rate", "absent"}))) == ["required", "mode"]


def test_parameters_without_annotation_or_help_accept_any_value() -> None:
    def plain(x, *, y=2):  # type: ignore[no-untyped-def]
        return x, y

    assert settings_of(plain) == {"x": Setting("x", Any, REQUIRED, ""), "y": Setting("y", Any, 2, "")}
    assert settings_of(plain)["y"].expected == "" and summary_of(plain) == ""
    assert list(problems_of(settings_of(plain), {"x": object(), "y": None})) == []


def test_settings_of_a_named_tuple() -> None:
    assert settings_of(Record) == {
        "size": Setting("size", Count, REQUIRED, "the size."),
        "name": Setting("name", str, "record", ""),
    }


def test_settings_of_a_data_class() -> None:
    found = settings_of(Data)
    assert [(setting.name, setting.default, setting.help) for setting in found.values()] == [
        ("path", REQUIRED, "the path of the file."),
        ("share", 0.5, ""),
    ]
    assert found["share"].when == When("kind", ("c", "d")) and found["path"].when is None
    assert found["share"].expected == "a number in [0, 1)"


def test_settings_of_a_partial_have_its_defaults_and_the_help_of_the_function() -> None:
    found = settings_of(partial(function, None, rate=0.3))
    assert list(found) == ["required", "rate", "mode"]
    assert found["rate"] == Setting("rate", Positive, 0.3, "the rate, whose help spans two lines.")
    assert list(settings_of(partial(function, None, 7))) == ["rate", "mode"]
    assert summary_of(partial(function, None)) == summary_of(function) == "Summarize the function in two lines."


def test_extended_functions_have_the_settings_of_both() -> None:
    assert settings_of(extended) == {
        "tau": Setting("tau", Count, 3, "the cycle."),
        "own": Setting("own", Flag, False, "a flag."),
    }


def test_takes_more_if_there_are_arbitrary_keyword_arguments() -> None:
    assert takes_more(function) and takes_more(extended)
    assert not takes_more(base) and not takes_more(Record)


def test_help_of_a_function_precedes_that_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module_doc = "A module.\n\nArgs:\n    rate: the help of the module.\n    shared: a shared setting.\n"
    monkeypatch.setitem(globals(), "__doc__", module_doc)
    found = help_of(function)
    assert found["rate"] == "the rate, whose help spans two lines." and found["shared"] == "a shared setting."

    def other(*, shared: int, rate: float) -> None:
        """Do nothing."""

    assert [setting.help for setting in settings_of(other).values()] == [
        "a shared setting.",
        "the help of the module.",
    ]


def test_check_lists_all_problems() -> None:
    with pytest.raises(ConfigError) as error:
        check("the source", settings_of(function), {"rat": 1.0, "required": 0, "mode": "c"})
    assert error.value.problems == (
        "there is no setting 'rat'; did you mean 'rate'? There are: mode, rate, required",
        "required is 0, expected an integer >= 1",
        "mode is 'c', expected 'a' or 'b'",
    )
    assert str(error.value).startswith("the source has 3 problems:\n")


def test_check_accepts_valid_settings_and_defaults() -> None:
    check("the source", settings_of(function), {"required": 1})
    check("the source", settings_of(function), {"required": 2, "rate": 1, "mode": "b"})


def test_check_rejects_missing_settings_without_a_default() -> None:
    with pytest.raises(ConfigError) as error:
        check("the source", settings_of(function), {"mode": "b"})
    assert error.value.problems == ("required is missing, expected an integer >= 1",)


TYPES: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...], str]] = {
    "Whole": (Whole, (0, 7), (-1, 1.0, True, "1", None), "an integer >= 0"),
    "Count": (Count, (1, 7), (0, 1.5, False, "1"), "an integer >= 1"),
    "Positive": (Positive, (1e-9, 3), (0.0, -1, math.inf, math.nan, "1"), "a number > 0"),
    "NotNegative": (NotNegative, (0, 0.5), (-0.1, math.inf, math.nan), "a number >= 0"),
    "Share": (Share, (0, 0.99), (1, -0.1, math.nan), "a number in [0, 1)"),
    "Fraction": (Fraction, (0.01, 0.99), (0, 1.0, math.nan), "a number in (0, 1)"),
    "Betas": (Betas, ((0.9, 0.99), [0, 0.5]), ((0.9,), (0.9, 1.0), 0.9), "two numbers in [0, 1)"),
    "Flag": (Flag, (True, False), (0, 1, "true", None), "true or false"),
    "Text": (Text, ("a",), ("", 1, None), "a string"),
    "Texts": (Texts, (["a"], ("a", "b"), []), ("ab", ["a", 1], None), "a list of strings"),
    "Counts": (Counts, ([1, 2], (3,)), ([0], [1.5], "12", 1), "a list of integers >= 1"),
    "Ranks": (Ranks, ({"fc*": 2}, {}), ({"fc*": 0}, {1: 2}, ["fc"]), "a table from globs to integers >= 1"),
    "Alphas": (Alphas, ({"fc*": 0.5},), ({"fc*": 0.0}, 1.0), "a table from globs to numbers > 0"),
}


@pytest.mark.parametrize("name", TYPES)
def test_values_of_each_type(name: str) -> None:
    annotation, valid, invalid, phrase = TYPES[name]
    declared = {"x": Setting("x", annotation, REQUIRED, "")}
    assert declared["x"].expected == phrase
    for value in valid:
        assert list(problems_of(declared, {"x": value})) == [], value
    for value in invalid:
        assert list(problems_of(declared, {"x": value})) == [f"x is {value!r}, expected {phrase}"]


def test_optional_settings_accept_none() -> None:
    declared = {"x": Setting("x", Count | None, None, "")}
    assert list(problems_of(declared, {"x": None})) == [] and list(problems_of(declared, {"x": 2})) == []
    assert list(problems_of(declared, {"x": 0})) == ["x is 0, expected an integer >= 1 or None"]


def test_undeclared_settings_and_types_without_a_phrase_are_not_checked() -> None:
    declared: Mapping[str, Setting] = {"x": Setting("x", Callable[[int], int], REQUIRED, "")}
    assert list(problems_of(declared, {"x": "no function", "unknown": 1})) == []


@pytest.mark.parametrize(
    ("annotation", "phrase"),
    [
        (int, "an integer"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "a string"),
        (dict, "a table"),
        (list, "a list"),
        (dict[str, int], "a table"),
        (list[int], "a list"),
        (int | None, "an integer"),
        (Count | None, "an integer >= 1"),
        (None | str, "a string"),
        (Literal["sgd"], "'sgd'"),
        (Literal["sgd", "adam"], "'sgd' or 'adam'"),
        (Literal["a", "b", "c"] | None, "'a', 'b' or 'c'"),
        (Annotated[int, Field(ge=2)], "an integer"),
        (Annotated[int, Expected("a prime")], "a prime"),
        (Annotated[Count, When("kind", ("a",))], "an integer >= 1"),
        (Any, ""),
        (object, ""),
    ],
)
def test_phrase_of_a_type(annotation: Any, phrase: str) -> None:
    assert expectation(annotation) == phrase


def test_one_of_quotes_options() -> None:
    assert [one_of(options) for options in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "'a'",
        "'a' or 'b'",
        "'a', 'b' or 'c'",
    ]

"""Functions with the parameters of a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import getdoc, signature
from typing import Any, ParamSpec, TypeVar, get_type_hints

from fedloru.errors import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def with_parameters_of(
    record: Callable[P, object], documented: type, elsewhere: Mapping[str, str]
) -> Callable[[Callable[[Any], R]], Callable[P, R]]:
    """Give a function of a ``record`` its parameters, for type checkers, editors and ``help``.

    The arguments in the docstring of ``documented`` come before those of the function. ``elsewhere`` says how to set
    what is not a parameter.
    """

    def decorate(function: Callable[[Any], R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs.keys() - known.keys():
                advice = (
                    f": {elsewhere[name]}" if name in elsewhere else did_you_mean(get_close_matches(name, known, n=1))
                )
                raise TypeError(f"{function.__name__}() has no argument {name!r}{advice}")
            return function(record(*args, **kwargs))

        known, types = signature(record).parameters, get_type_hints(record)
        parameters = [p.replace(annotation=types[name]) for name, p in known.items()]
        call.__signature__ = signature(record).replace(  # type: ignore[attr-defined]
            parameters=parameters, return_annotation=get_type_hints(function)["return"]
        )
        summary, _, rest = (function.__doc__ or "").partition("    Args:\n")
        settings = (getdoc(documented) or "").partition("Args:\n")[2]
        call.__doc__ = f"{summary}    Args:\n" + "".join(f"    {line}\n" for line in settings.splitlines()) + rest
        return call

    return decorate

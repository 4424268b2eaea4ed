"""Functions with the parameters of a record."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import getdoc, signature
from typing import Any, ParamSpec, TypeVar, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")


def with_parameters_of(record: Callable[P, object], documented: type) -> Callable[[Callable[[Any], R]], Callable[P, R]]:
    """Give a function of a ``record`` its parameters, for type checkers, editors and ``help``.

    The arguments in the docstring of ``documented`` come before those of the function.
    """

    def decorate(function: Callable[[Any], R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(record(*args, **kwargs))

        types = get_type_hints(record)
        parameters = [p.replace(annotation=types[name]) for name, p in signature(record).parameters.items()]
        call.__signature__ = signature(record).replace(  # type: ignore[attr-defined]
            parameters=parameters, return_annotation=get_type_hints(function)["return"]
        )
        summary, _, rest = (function.__doc__ or "").partition("    Args:\n")
        settings = (getdoc(documented) or "").partition("Args:\n")[2]
        call.__doc__ = f"{summary}    Args:\n" + "".join(f"    {line}\n" for line in settings.splitlines()) + rest
        return call

    return decorate

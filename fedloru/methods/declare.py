"""The decorators that declare methods and wrappers, each in one place: its function.

The signature declares the settings with their types and defaults, the docstring describes them, and the decorator adds
the facts. The TOML form, ``fedloru methods``, the documentation, ``rebuild`` and the cases of the law tests are derived
from this declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, Concatenate, NamedTuple, ParamSpec

from fedloru.method import Method, planned
from fedloru.recipe import Recipe
from fedloru.settings import PREFIX, Setting, check, settings_of
from fedloru.settings.types import FromSize, RunSize

P = ParamSpec("P")
Cases = Mapping[str, Mapping[str, Any]]
WrapperCases = Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]]
"""By the name of the case: the wrapped method, its settings, and the settings of the wrapper."""
FromRun = Callable[[Recipe, int], dict[str, Any]]

UNKNOWN = "?"
PACKAGE = f"{__name__.partition('.')[0]}."


class Facts(NamedTuple):
    """The columns of ``fedloru methods``, for the default settings.

    T is the number of rounds, P the number of clients in a round, and r the rank of a site.
    """

    trained: str = UNKNOWN
    aggregate: str = UNKNOWN
    rank: str = UNKNOWN
    client_state: str = UNKNOWN
    source: str = "–"


class Declaration(NamedTuple):
    """The facts about a method, and the settings under which the law tests run it, by a suffix of its name."""

    facts: Facts
    cases: Cases


class WrapperDeclaration(NamedTuple):
    """The section of a configuration that sets up a wrapper, or "method" for a key of [method]; and its test cases.

    ``from_run`` returns the settings that follow from the recipe and the number of clients of a run. An ``inert``
    wrapper changes nothing with its defaults.
    """

    section: str
    cases: WrapperCases
    from_run: FromRun | None
    inert: bool = False


def method(
    *,
    trained: str,
    aggregate: str,
    rank: str,
    client_state: str = "–",
    source: str = "–",
    cases: Cases | None = None,
    extends: Callable[..., Method] | None = None,
) -> Callable[[Callable[P, Method]], Callable[P, Method]]:
    """Declare a method: a function that takes keyword-only settings and returns a ``Method``.

    The settings are checked before the function is called. The name and the settings are recorded in the method.

    Args:
        trained: what clients train.
        aggregate: whether the aggregate of products is exact or inexact.
        rank: the highest rank of the total update.
        client_state: what clients keep between rounds.
        source: the arXiv number, or the venue and the year.
        cases: the settings under which the law tests run the method, by a suffix of its name.
        extends: a method whose settings this one also takes, as ``**settings``.
    """
    declared = Declaration(Facts(trained, aggregate, rank, client_state, source), cases or {"": {}})

    def decorate(function: Callable[P, Method]) -> Callable[P, Method]:
        name, shown = name_of(function), _extended(signature(function), extends)

        @wraps(function)
        def make(*args: P.args, **kwargs: P.kwargs) -> Method:
            given = _bound(shown, args, kwargs)
            check(name, settings_of(make), given)
            made = function(**given)._replace(name=name, config=given)  # type: ignore[call-arg]  # it has these settings
            chosen = {key: one.from_size for key, one in settings_of(make).items() if one.from_size}
            if not any(given[key] is None for key in chosen):
                return made._replace(in_run=None)
            return _in_run(made, lambda size: make(**{**given, **_filled(given, chosen, size)}))  # type: ignore[call-arg]

        _describe(make, shown, declared, extends)
        return make

    return decorate


def wrapper(
    *,
    cases: WrapperCases | None = None,
    section: str = "method",
    from_run: FromRun | None = None,
    inert: bool = False,
) -> Callable[[Callable[Concatenate[Method, P], Method]], Callable[Concatenate[Method, P], Method]]:
    """Declare a wrapper: a function that takes a method and keyword-only settings and returns a changed method.

    The settings are checked before the function is called. The name and the settings are appended to
    ``config["wrap"]``, innermost wrapper first.

    Args:
        cases: the methods and settings under which the law tests run the wrapper, by the name of the case.
        section: the section of a configuration that contains its settings.
        from_run: a function that computes the settings from the recipe and the number of clients of a run.
        inert: whether it changes nothing with its defaults, and so is not applied if a configuration does not set them.
    """
    declared = WrapperDeclaration(section, cases or {}, from_run, inert)

    def decorate(function: Callable[Concatenate[Method, P], Method]) -> Callable[Concatenate[Method, P], Method]:
        name, whole = name_of(function), signature(function)
        settings = whole.replace(parameters=list(whole.parameters.values())[1:])

        @wraps(function)
        def wrap(inner: Method, /, *args: P.args, **kwargs: P.kwargs) -> Method:
            given = _bound(settings, args, kwargs)
            check(name, wrapper_settings(wrap), given)
            made = function(inner, **given)  # type: ignore[call-arg]  # it has these settings
            entry = {"name": name, **given}
            config = {**inner.config, "wrap": [*inner.config.get("wrap", []), entry]}
            made = made._replace(config=config, in_run=None)
            return made if inner.in_run is None else _in_run(made, lambda size: wrap(planned(inner, size), **given))  # type: ignore[call-arg]

        _describe(wrap, whole, declared, None)
        return wrap

    return decorate


def _in_run(made: Method, again: Callable[[RunSize], Method]) -> Method:
    """Return ``made`` with an ``in_run`` that makes it again, unless functions have been replaced since."""

    def in_run(current: Method, size: RunSize) -> Method:
        return again(size) if _functions(current) == _functions(made) else current

    return made._replace(in_run=in_run)


def _functions(made: Method) -> Method:
    return made._replace(name="", config={}, in_run=None)


def _filled(given: Mapping[str, Any], open: Mapping[str, FromSize], size: RunSize) -> dict[str, Any]:
    return {key: default.choose(given, size) for key, default in open.items() if given[key] is None}


def name_of(function: Callable[..., Any]) -> str:
    """Return the name under which other processes find a function: a reference, if it is not in this package.

    A function of a script or inside another function cannot be imported, and has its plain name.
    """
    module, name = function.__module__, function.__name__
    if module == "__main__" or module.startswith(PACKAGE) or function.__qualname__ != name:
        return name
    return f"{PREFIX}{module}:{name}"


def wrapper_settings(function: Callable[..., Method]) -> Mapping[str, Setting]:
    """Return the settings of a wrapper: all but its first parameter, the method."""
    return settings_of(function, skip=frozenset([*signature(function).parameters][:1]))


def declaration(function: Callable[..., Method]) -> Declaration:
    """Return the declaration of a method; for a function that is not declared, one without facts."""
    found = getattr(function, "declaration", None)
    return found if isinstance(found, Declaration) else Declaration(Facts(), {"": {}})


def wrapper_declaration(function: Callable[..., Method]) -> WrapperDeclaration:
    """Return the declaration of a wrapper; a function that is not declared belongs to [method]."""
    found = getattr(function, "declaration", None)
    return found if isinstance(found, WrapperDeclaration) else WrapperDeclaration("method", {}, None)


def _describe(function: Any, shown: Signature, declared: Any, extends: Callable[..., Method] | None) -> None:
    function.__signature__ = shown
    function.declaration = declared
    function.extends = extends


def _extended(own: Signature, base: Callable[..., Method] | None) -> Signature:
    """Return a signature in which the parameters of ``base`` replace ``**settings``."""
    if base is None:
        return own
    named = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    return own.replace(parameters=[*named, *signature(base).parameters.values()])


def _bound(shown: Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return all settings, including defaults, as JSON values."""
    bound = shown.bind(*args, **kwargs)
    bound.apply_defaults()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in bound.arguments.items()}

"""Tables of named entries, and references to functions of other packages.

Every setting that takes a name from a table also takes ``python:package.module:function``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from fedloru.errors import ConfigError, FedloruError, choices, plain, quoted, sentence, traced
from fedloru.settings.types import one_of

PREFIX = "python:"
T = TypeVar("T")


class Table(Mapping[str, T]):
    """Entries of one ``kind`` by name; ``error`` creates the exception for an unknown name.

    ``table["name"]`` returns an entry of the table; ``table.find(name)`` also resolves references.
    """

    def __init__(self, kind: str, entries: Mapping[str, T], error: Callable[[str], FedloruError] | None = None) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._error = error or (lambda problem: ConfigError([problem], f"the {kind}"))

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def error(self, problem: str) -> FedloruError:
        """Return the exception for a name that leads nowhere, or to something that fails."""
        return self._error(problem)

    def find(self, name: str) -> T:
        """Return the entry called ``name``, or the function that a ``python:`` name refers to.

        Raises:
            FedloruError: there is no such entry, or the reference cannot be resolved.
        """
        if name.startswith(PREFIX):
            return resolve(name, self._error)  # type: ignore[return-value]  # its type is checked where it is used
        if name not in self._entries:
            raise self._error(f"there is no {self.kind} {quoted(name)}{choices(name, self._entries)}, {SYNTAX}")
        return self._entries[name]


class In(NamedTuple):
    """Marks a string as a name from a table, or a reference: ``Annotated[str, In(CODECS)]``."""

    table: Table[Any]

    @property
    def text(self) -> str:
        """The phrase for the expected values."""
        return f"{one_of(self.table)}, {SYNTAX}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic reject a string that is neither a name nor a reference."""
        return no_info_after_validator_function(self._known, handler(source))

    def _known(self, name: str | None) -> str | None:
        if name is not None and name not in self.table and not is_reference(name):
            raise ValueError(f"no {self.table.kind} has this name")
        return name


SYNTAX = f"or {PREFIX}package.module:function"


def listed(module: ModuleType, order: Iterable[str] = ()) -> dict[str, Any]:
    """Return the public functions of a catalogue module by name, those in ``order`` first."""
    found = {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    first = {name: found[name] for name in order}
    return first | found


def short(name: str) -> str:
    """Return a name as it is displayed: for a reference, the name of the function."""
    return name.rpartition(":")[2] if name.startswith(PREFIX) else name


def is_reference(name: str) -> bool:
    """Return whether ``name`` has the form ``python:package.module:function``; the function may not exist."""
    module_name, _, attribute = name.removeprefix(PREFIX).partition(":")
    return name.startswith(PREFIX) and bool(module_name) and attribute.isidentifier()


def resolve(reference: str, error: Callable[[str], FedloruError]) -> Callable[..., Any]:
    """Return the function that ``python:package.module:function`` names.

    If the package is not found, the working directory is appended to ``sys.path``. ``python -m`` would put it first;
    at the end, it cannot shadow an installed package.

    Raises:
        FedloruError: created by ``error``; the reference is malformed, the module is missing or fails on import, or it
            has no such function.
    """
    if not is_reference(reference):
        raise error(f"{quoted(reference)} does not name a function; write {PREFIX}package.module:function")
    module_name, _, attribute = reference.removeprefix(PREFIX).partition(":")
    shown = plain(reference, 160)
    try:
        module = _import(module_name)
    except ImportError as problem:
        raise error(
            f"{shown}: the module {plain(module_name)} cannot be imported ({plain(str(problem), 200)}); check that it "
            "is on Python's path"
        ) from problem
    except Exception as problem:  # the module's own code may raise anything
        raise error(
            f"{shown}: the module {module_name} fails on import ({sentence(problem)}); fix its code"
        ) from problem
    function = getattr(module, attribute, None)
    if not callable(function):
        raise error(f"{shown}: the module {module_name} has no function {attribute}; check its name")
    return function  # type: ignore[no-any-return]


@contextmanager
def calling(name: str, error: Callable[[str], FedloruError]) -> Iterator[None]:
    """Report what a function that a ``python:`` name refers to raises, in one sentence.

    Raises:
        FedloruError: made by ``error``; the function raised an exception.
    """
    try:
        yield
    except FedloruError:
        raise
    except Exception as problem:  # the user's own code may raise anything
        if not name.startswith(PREFIX):
            raise
        raise error(f"{name} failed: {traced(problem)}; fix it") from problem


def _import(module_name: str) -> ModuleType:
    try:
        return import_module(module_name)
    except ModuleNotFoundError as problem:
        directory = str(Path.cwd())
        if problem.name != module_name.partition(".")[0] or directory in sys.path:
            raise
        sys.path.append(directory)
        return import_module(module_name)

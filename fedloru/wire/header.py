"""The header of a message: its fields, and the range of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, get_args

from fedloru.errors import WireError, names, quoted
from fedloru.method import Fresh

Kind = Literal["down", "up", "sync"]


class Header(NamedTuple):
    """The metadata of a message.

    ``run`` is the hash of W₀, which client and server share. ``round`` counts from 1. ``version`` is the number of
    increments in the base that the message belongs to. If ``fresh`` is not "", the factors are omitted, and the
    receiver draws them itself: ``lowrank.init_factors(sites, seed, version, like, init=fresh)``; if ``rank`` is not 0,
    it limits the rank of those sites. ``numbers`` are finite values, such as a client's weight and loss.
    """

    kind: Kind
    method: str
    run: str
    round: int
    version: int
    client: int = -1
    seed: int = 0
    fresh: Fresh = ""
    rank: int = 0
    numbers: dict[str, float] = {}


LARGEST = 2**63 - 1
MAX_TEXT, MAX_NUMBERS, MAX_NUMBER = 1024, 64, 1e100
"""The largest length of a string, number of numbers, and absolute value of a number."""


class _Field(NamedTuple):
    """The type of a field, the condition on its value, and the phrase for both."""

    type: type
    holds: Callable[[Any], bool]
    text: str


def _one_of(options: tuple[str, ...]) -> _Field:
    return _Field(str, lambda value: value in options, f"one of {options}")


def _integer(low: int, high: int) -> _Field:
    return _Field(int, lambda value: low <= value <= high, f"an integer from {low} to {high}")


_TEXT = _Field(str, lambda value: len(value) <= MAX_TEXT, f"a string of at most {MAX_TEXT} characters")
_FIELDS: dict[str, _Field] = {
    "kind": _one_of(get_args(Kind)),
    "method": _TEXT,
    "run": _TEXT,
    "round": _integer(1, LARGEST),
    "version": _integer(0, LARGEST),
    "client": _integer(-1, LARGEST),
    "seed": _integer(0, LARGEST),
    "fresh": _one_of(get_args(Fresh)),
    "rank": _integer(0, LARGEST),
    "numbers": _Field(dict, lambda value: len(value) <= MAX_NUMBERS, f"a table of at most {MAX_NUMBERS} numbers"),
}

_UNUSED: dict[Kind, tuple[str, ...]] = {
    "down": ("client", "numbers"),
    "up": ("seed", "fresh", "rank"),
    "sync": ("client", "fresh", "rank", "numbers"),
}
"""The fields that have their defaults in messages of each kind."""

_HINTS = {
    "kind": "client and server are at different steps of the exchange; restart the round",
    "method": "use the same [method] settings on client and server",
    "run": "the client's base model differs from the server's; start both from the same model, seed and weights",
    "round": "the message belongs to another round; discard it, and wait for the message of this round",
    "version": "the base has a different number of increments; the client must catch up first",
    "client": "the message belongs to another client; discard it",
}


def reject(problem: str) -> NoReturn:
    """Raise the error of a message that cannot be used."""
    raise WireError(f"{problem}. Send the message again, and use the same version of fedloru on client and server")


def check_fields(fields: Mapping[str, Any]) -> None:
    """Check that a table has exactly the fields of a ``Header``, each of its type and in its range.

    Raises:
        WireError: a field is missing, unknown, or out of range.
    """
    if set(fields) != set(Header._fields):
        reject(f"the header has the fields {names(sorted(fields), 12)}; expected {', '.join(Header._fields)}")
    for name, field in _FIELDS.items():
        value = fields[name]
        if type(value) is not field.type or not field.holds(value):
            reject(f"the header field {name} is {quoted(value)}; expected {field.text}")
    for name, value in fields["numbers"].items():
        if type(name) is not str or len(name) > MAX_TEXT:
            reject(f"the header has a number called {quoted(name)}; expected {_TEXT.text}")
        if type(value) is not float or not math.isfinite(value) or abs(value) > MAX_NUMBER:
            reject(
                f"the header's number {quoted(name)} is {quoted(value)}; expected a finite float "
                f"of at most {MAX_NUMBER:g}"
            )


def check(
    header: Header,
    *,
    kind: Kind,
    method: str,
    run: str,
    round: int | None = None,
    version: int | None = None,
    client: int | None = None,
) -> None:
    """Compare a header with the values that the receiver expects; None is not compared.

    Raises:
        WireError: a field differs. The message names the field and both values, and says what to do.
    """
    expected = {"kind": kind, "method": method, "run": run, "round": round, "version": version, "client": client}
    for name, wanted in expected.items():
        got = getattr(header, name)
        if wanted is not None and got != wanted:
            raise WireError(
                f"the {header.kind} message for round {header.round} has {name} {quoted(got)}, "
                f"but {quoted(wanted)} is expected: {_HINTS[name]}"
            )


def check_use(header: Header) -> None:
    """Check that a header sets only fields that its kind uses, and that its version is possible in its round.

    Raises:
        WireError: a field that the kind does not use is set, or there are more versions than completed rounds.
    """
    for name in _UNUSED[header.kind]:
        if (got := getattr(header, name)) != Header._field_defaults[name]:
            reject(f"the header of a message of kind {header.kind!r} has {name} {quoted(got)}; expected none")
    if header.rank and not header.fresh:
        reject(f"the header has rank {header.rank}, but no fresh factors; expected 0")
    if header.kind == "up" and header.client < 0:
        reject(f"the header of an up message has client {header.client}; expected 0 or more")
    if header.version >= header.round:
        reject(
            f"the header has version {header.version} in round {header.round}, but a round merges at most one "
            f"increment; expected at most {header.round - 1}"
        )

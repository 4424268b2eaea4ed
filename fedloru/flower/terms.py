"""What a client allows: it refuses everything else, and tells the server and its user why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedloru.errors import plain
from fedloru.flower.protocol import Hello
from fedloru.flower.state import Usage
from fedloru.settings import PREFIX


class Terms(NamedTuple):
    """The limits of a client; None is no limit.

    Args:
        epochs: the maximum number of local epochs in a round.
        rounds: the maximum number of rounds in which the client trains, over all its federations.
        bytes_per_day: the maximum number of bytes that it receives and sends in a day, in UTC.
        python: the `python:` names of functions on this machine that the configuration of the server may use.
        remote_code: whether a model may run code that comes with it.
        scores: whether it reports scores on its own test examples.
    """

    epochs: int | None = None
    rounds: int | None = None
    bytes_per_day: int | None = None
    python: tuple[str, ...] = ()
    remote_code: bool = False
    scores: bool = False


def forbidden_code(terms: Terms, hello: Hello) -> str | None:
    """Return why the configuration of the server may not be read, because it runs code; None if it may.

    This is checked before the configuration is parsed, because that imports the modules of `python:` names.
    """
    for name in references([hello.config, hello.reading]):
        if name not in terms.python:
            return (
                f"the configuration uses {plain(name)}, which this client has not allowed: review that function, and "
                f"start the client with --allow {plain(name)}"
            )
    model = hello.config.get("model")
    if isinstance(model, Mapping) and model.get("trust_remote_code") and not terms.remote_code:
        return "the model runs code that comes with it: review it, and start the client with --allow-remote-code"
    return None


def references(table: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    """Yield the `python:` names in a table, at any depth."""
    for value in table.values() if isinstance(table, Mapping) else table:
        if isinstance(value, str) and value.startswith(PREFIX):
            yield value
        elif isinstance(value, Mapping | list | tuple):
            yield from references(value)


def too_much(terms: Terms, epochs: float) -> str | None:
    """Return why a round with so many local ``epochs``, in all phases together, is refused; None if it is not."""
    if terms.epochs is not None and epochs > terms.epochs:
        return f"a round has {epochs:g} local epochs, but this client allows {terms.epochs} (--max-epochs)"
    return None


def used_up(terms: Terms, usage: Usage, nbytes: int) -> str | None:
    """Return which limit the client has reached if it exchanges ``nbytes`` more; None if it has reached none."""
    if terms.rounds is not None and usage.rounds >= terms.rounds:
        return f"this client has trained in {usage.rounds} rounds, and allows {terms.rounds} (--max-rounds)"
    if terms.bytes_per_day is not None and usage.bytes + nbytes > terms.bytes_per_day:
        return (
            f"this client has exchanged {usage.bytes:,} bytes today, and allows {terms.bytes_per_day:,} "
            "(--max-bytes-per-day): it takes part again tomorrow (UTC)"
        )
    return None

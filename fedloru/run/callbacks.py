"""Callbacks: code that follows a run, such as a tracker of experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fedloru.errors import ConfigError, quoted

if TYPE_CHECKING:
    from fedloru.run.loop import Run


class Callback:
    """Follows a run; subclass it, and override the methods that you need.

    An exception in a method ends the run after the last completed round has been saved, so that the run can be resumed.

    Example::

        class Best(fl.Callback):
            accuracy = 0.0

            def on_round(self, row):
                self.accuracy = max(self.accuracy, row["test_accuracy"] or 0.0)
    """

    def on_start(self, run: Run) -> None:
        """Prepare for the remaining rounds of ``run``; ``run.rows`` has the rounds before them if it is resumed."""

    def on_round(self, row: dict[str, Any]) -> None:
        """Take the results of a round, which are already in the run folder if there is one."""

    def on_end(self, run: Run) -> None:
        """Finish: all rounds are trained and the results are written, or the run has failed or was stopped."""


class _OnRound(Callback):
    """Calls ``function`` with the row of every round."""

    def __init__(self, function: Callable[[dict[str, Any]], object]) -> None:
        self.function = function

    def on_round(self, row: dict[str, Any]) -> None:
        self.function(row)


Follower = Callback | Callable[[dict[str, Any]], object]
"""A callback, or a function that is called with the row of every round."""


def callbacks_of(followers: Iterable[Follower]) -> list[Callback]:
    """Return ``followers`` as callbacks.

    Raises:
        ConfigError: one of them is neither a callback nor a function.
    """
    if callable(followers) or isinstance(followers, Callback | str):
        raise ConfigError([f"callbacks is {quoted(followers)}, expected a list of them: callbacks=[…]"], "the run")
    return [_callback(place, each) for place, each in enumerate(followers)]


def _callback(place: int, follower: Any) -> Callback:
    if isinstance(follower, Callback):
        return follower
    if isinstance(follower, type) or not callable(follower):
        hint = ", such as callbacks=[print], or an instance of a fedloru.Callback"
        raise ConfigError([f"callbacks[{place}] is {quoted(follower)}, expected a function of a row{hint}"], "the run")
    return _OnRound(follower)


@contextmanager
def following(callbacks: Sequence[Callback], run: Run) -> Iterator[None]:
    """Call ``on_start`` of ``callbacks``, and at the end ``on_end`` of all that have started, also after an error."""
    with ExitStack() as ends:
        for each in callbacks:
            each.on_start(run)
            ends.callback(each.on_end, run)
        yield

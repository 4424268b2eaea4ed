"""The interface between a run and its carrier, which brings a round to the clients.

The run samples the cohort, keeps the ledger, and updates, evaluates and records the model. It asks its carrier who is
present, what each client holds, and what came of a round. A simulation is one carrier (``run.simulation``), a
federation of real clients the other (``fedloru.flower``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fedloru.engine import Chosen
from fedloru.engine.task import Observer, Outcome
from fedloru.method import Profile, State
from fedloru.recipe import Recipe
from fedloru.run.folder import RunFolder
from fedloru.wire import Sync, Traffic


class Invited(NamedTuple):
    """A client of the cohort, its profile, and what it needs to reach the version of the server."""

    client: int
    profile: Profile
    sync: Sync


class Assignment(NamedTuple):
    """A round to be carried out.

    Args:
        state: the state of the server before the round.
        recipe: the settings of local training, with the learning rate of the round.
        cohort: the clients that are sampled, in order.
        order: returns clients in the order in which they are sampled.
        invite: returns further clients, such as substitutes for those of the cohort that have left.
        observe: called with the messages of each chunk of clients; None without diagnostics.
    """

    state: State
    recipe: Recipe
    cohort: Sequence[Invited]
    order: Callable[[Iterable[int]], Sequence[int]]
    invite: Callable[[Sequence[int]], Sequence[Invited]]
    observe: Observer | None = None

    @property
    def round(self) -> int:
        """The number of the round, from 1."""
        return self.state.round + 1


class Delivery(NamedTuple):
    """The results of a round.

    Args:
        outcome: the total of the replies.
        clients: the clients whose replies are in the total, in order.
        accounts: the bytes exchanged with the clients of each profile.
        notes: what the carrier adds to the row of the round.
    """

    outcome: Outcome
    clients: Sequence[int]
    accounts: Mapping[Profile, Traffic]
    notes: Mapping[str, Any] = {}


class Personal(NamedTuple):
    """How the scores of clients are distributed, None if they are not known, and the bytes exchanged for them.

    ``notes`` is what the carrier adds to the row of the round.
    """

    scores: dict[str, dict[str, float]] | None = None
    accounts: Mapping[Profile, Traffic] = {}
    notes: Mapping[str, Any] = {}


class Carrier(Protocol):
    """Brings the rounds of a run to its clients."""

    engine: Chosen
    """What trains the clients, for the record of the run."""

    scores_start: bool
    """Whether clients can be scored before the first round, which takes no messages."""

    @property
    def status(self) -> str:
        """What the carrier is doing, for the live view; "" if there is nothing to say. Other threads read it."""

    def open(self, folder: RunFolder | None) -> None:
        """Prepare for the rounds of a run, which writes to ``folder``."""

    def present(self) -> Sequence[int]:
        """Return the clients that can take part in a round."""

    def invitations(self, cohort: int) -> int:
        """Return the number of clients that are invited, to have ``cohort`` replies."""

    def held(self, clients: Sequence[int]) -> Mapping[int, int | None]:
        """Return the version that clients say they hold, None for none; the ledger is right about all others."""

    def carry(self, assignment: Assignment) -> Delivery:
        """Train the cohort."""

    def personal(self, state: State, invite: Callable[[Sequence[int]], Sequence[Invited]]) -> Personal:
        """Return the scores of clients on their own test examples, or on their parts of the test set.

        ``invite`` returns clients with what they need to reach the version of ``state``.
        """

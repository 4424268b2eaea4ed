"""What a federated method is: a record of pure functions over ``Params``, and the values that flow between them.

Engines interpret the record; none of them knows a method by name. The wire is the cut between what runs on the
server (``down``, ``reduce``, ``server``) and what runs on a client (``begin``, ``expand``, ``penalty``, ``up``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from fedloru import tree
from fedloru.lowrank import concatenate
from fedloru.net import Net
from fedloru.tree import Params

Profile = tuple[tuple[str, float], ...]
"""What makes clients differ, such as a rank, as sorted pairs; ``()`` for a client like any other."""


def profile_name(profile: Profile) -> str:
    """Return a profile as it is called in records and tables, such as "rank 2"; "usual" where it is ()."""
    return ", ".join(f"{name} {repr(float(value)).removesuffix('.0')}" for name, value in profile) or "usual"


class State(NamedTuple):
    """Everything the server remembers between rounds: tensors and numbers, savable.

    ``round`` counts the rounds done, ``version`` the increments merged into ``base``. ``base`` is frozen and the
    same on server and clients, ``shared`` is trained and averaged, ``aux`` is the method's own, ``increment``
    holds the factors merged in the last round ({} if none), and ``notes`` numbers of that round worth recording.
    """

    seed: int
    round: int
    version: int
    base: Params
    shared: Params
    aux: Params
    increment: Params
    notes: dict[str, float] = {}


class Down(NamedTuple):
    """What the server sends to a client, apart from increments it missed.

    ``seed``, ``round`` (from 1) and ``version`` are in every message's header: clients draw from them what need not
    be sent, and tell whether what they keep is of other factors.
    """

    shared: Params
    aux: Params = {}
    seed: int = 0
    round: int = 0
    version: int = 0


class Up(NamedTuple):
    """What a client sends to the server."""

    shared: Params
    aux: Params = {}


class Total(NamedTuple):
    """What a cohort says: a monoid under ``join``, with ``Total(0.0, Up({}), {})`` as its zero.

    Sums add, stacks concatenate along the rank. Where ``stack`` is empty, the method works with all-reduce
    and secure aggregation.
    """

    weight: float
    sum: Up
    stack: Params

    def join(self, other: Total, net: Net) -> Total:
        """Return what the two cohorts say together."""
        if not self.weight:
            return other
        if not other.weight:
            return self
        total = Up(tree.add(self.sum.shared, other.sum.shared), tree.add(self.sum.aux, other.sum.aux))
        stack = concatenate(net.sites, self.stack, other.stack)
        return Total(self.weight + other.weight, total, stack)


NOTHING = Total(0.0, Up({}), {})


class Phase(NamedTuple):
    """A part of local training: the keys trained in it, and its epochs (None: those of the recipe)."""

    keys: frozenset[str]
    epochs: int | None = None


class Values(NamedTuple):
    """How many numbers one client exchanges in one round, by kind, and how many an increment then holds.

    The closed formula of METHODS.md that measured bytes are held against (law 6).
    """

    down: dict[str, int]
    up: dict[str, int]
    increment: int = 0


class Method(NamedTuple):
    """A federated method as pure functions; FedAvg's are the defaults that others replace.

    ``METHODS[name](**config)`` rebuilds it, so that no closure ever crosses a process.
    """

    name: str
    config: dict[str, Any]
    low_rank: bool
    """Whether the method trains factors, and so needs sites."""

    init: Callable[[Net, int], State]
    """(net, seed) → the state before the first round."""

    down: Callable[[Net, State, Profile], Down]
    """Server: what a client of this profile receives."""

    begin: Callable[[Net, Down, Params, Profile], Params]
    """Client: (net, down, client_state, profile) → its trainable tree; ``net.buffers`` are carried, not trained."""

    expand: Callable[[Net, Params, Down], Params] | None
    """Client, every step: (net, train, down) → forward parameters; None is the identity."""

    penalty: Callable[[Net, Params, Down, Params], Tensor] | None
    """Client, every step: (net, train, down, client_state) → a 0-d term added to the mean loss; None is 0."""

    up: Callable[[Net, Params, Down, Params, int], tuple[Up, Params]]
    """Client: (net, train, down, client_state, steps) → its message, and what it keeps."""

    reduce: Callable[[Net, State, Down, Sequence[Up], Sequence[float]], Total]
    """Server: one chunk of clients of one profile, with the ``Down`` they received and their weights."""

    server: Callable[[Net, State, Total], State]
    """Server: average, accumulate, reset; returns the state of the next round."""

    values: Callable[[Net, int, Sequence[Profile], Profile], Values]
    """(net, round from 1, profiles of the cohort, profile) → what one client of ``profile`` sends and receives."""

    phases: Callable[[Net, Params], tuple[Phase, ...]] | None = None
    """Client: (net, train) → the phases of local training, in turn; None trains all keys at once."""

    view: Callable[[Net, State], Params] | None = None
    """Server: (net, state) → the forward parameters of its own model; None: what a usual client begins with."""

    stacks: bool = False
    """Whether ``reduce`` fills ``Total.stack``: then neither all-reduce nor secure aggregation can serve it."""

    ranks: Literal["one", "many", "different"] = "one"
    """Whether all clients have one rank, or may have many by their profiles, or must have different ones."""

    own_weights: bool = False
    """Whether the server divides by weights of its own, not ``Total.weight``: no optimizer can stand before it."""

"""Federated methods: records of pure functions over ``Params``, and the values that these functions exchange.

Engines call the functions of the record, and never check for a method by name. ``down``, ``reduce`` and ``server`` run
on the server, ``begin``, ``expand``, ``penalty`` and ``up`` on a client; only messages pass between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from fedloru import tree
from fedloru.lowrank import concatenate
from fedloru.net import Net
from fedloru.settings import short
from fedloru.settings.types import RunSize
from fedloru.tree import Params

Profile = tuple[tuple[str, float], ...]
"""What distinguishes a client, such as a rank, as sorted pairs; ``()`` is the default profile."""


def profile_name(profile: Profile) -> str:
    """Return the name of a profile in records and tables, such as "rank 2", or "usual" for the default profile."""
    return ", ".join(f"{name} {repr(float(value)).removesuffix('.0')}" for name, value in profile) or "usual"


Fresh = Literal["", "a", "both", "zero"]
"""How fresh factors were initialized: A drawn and B = 0, both drawn, or 0; "" for factors that are not fresh."""


class State(NamedTuple):
    """Everything the server keeps between rounds, as tensors and numbers that can be saved.

    ``round`` is the number of completed rounds, ``version`` the number of increments merged into ``base``. ``base`` is
    frozen and identical on the server and all clients, ``shared`` is trained and averaged, ``aux`` is additional state
    of the method, ``increment`` has the factors merged in the last round ({} if none), and ``notes`` has numbers to
    record for that round.
    """

    seed: int
    round: int
    version: int
    base: Params
    shared: Params
    aux: Params
    increment: Params
    notes: dict[str, float] = {}

    def __repr__(self) -> str:
        """Return the round, the version and the sizes of the tensors in one line."""
        sizes = {name: tree.size(getattr(self, name)) for name in ("base", "shared", "aux", "increment")}
        counts = ", ".join(f"{count:,} values in {name}" for name, count in sizes.items() if count)
        return f"State(round {self.round}, version {self.version}, {counts})"


class Down(NamedTuple):
    """What the server sends to a client, other than the increments that the client is missing.

    ``seed``, ``round`` (from 1) and ``version`` are in the header of every message. Clients use them to draw tensors
    that are not sent, and to detect that their client state belongs to other factors.

    ``fresh`` says that the factors in ``shared`` are ``init_factors(sites, seed, version, …, init=fresh)``, with the
    ranks that they have here, or all 0. The receiver draws them too, so the wire does not send them. It trusts the
    method; that the claim is true is a law (``fedloru.check``).

    ``base`` is what the receiver holds after its catch-up. It is not part of the message: server and client each fill
    in their own.
    """

    shared: Params
    aux: Params = {}
    seed: int = 0
    round: int = 0
    version: int = 0
    fresh: Fresh = ""
    base: Params = {}


class Up(NamedTuple):
    """What a client sends to the server."""

    shared: Params
    aux: Params = {}


class Reply(NamedTuple):
    """What one client received and sent, and its weight."""

    down: Down
    up: Up
    weight: float


class Total(NamedTuple):
    """The aggregate of a group of clients: a monoid under ``join``, with identity ``Total(0.0, Up({}), {})``.

    Sums are added, stacks are concatenated along the rank axis, and replies, which a robust rule needs one by one, are
    listed in order. If ``stack`` and ``replies`` are empty, the method is compatible with all-reduce and secure
    aggregation.
    """

    weight: float
    sum: Up
    stack: Params
    replies: tuple[Reply, ...] = ()

    def join(self, other: Total, net: Net) -> Total:
        """Return the total of two disjoint groups of clients."""
        if not self.weight:
            return other
        if not other.weight:
            return self
        total = Up(tree.add(self.sum.shared, other.sum.shared), tree.add(self.sum.aux, other.sum.aux))
        stack = concatenate(net.sites, self.stack, other.stack)
        return Total(self.weight + other.weight, total, stack, self.replies + other.replies)


NOTHING = Total(0.0, Up({}), {})


class Phase(NamedTuple):
    """A part of local training: the keys it trains, and its number of epochs (None: that of the recipe)."""

    keys: frozenset[str]
    epochs: int | None = None


class Values(NamedTuple):
    """The number of values that one client receives and sends in one round, by kind, and the size of an increment.

    This is the byte formula of METHODS.md, which measured bytes are checked against.
    """

    down: dict[str, int]
    up: dict[str, int]
    increment: int = 0


def is_merge_round(tau: float | Sequence[int], round: int) -> bool:
    """Return whether the server merges at the end of ``round``, counted from 1."""
    if isinstance(tau, int | float):
        return math.isfinite(tau) and round % int(tau) == 0
    return round in tau


class Traits(NamedTuple):
    """What engines, wrappers and the wire need to know about a method."""

    low_rank: bool = False
    """Whether the method trains factors, and so needs sites."""

    ranks: Literal["one", "many", "different"] = "one"
    """Whether all clients have one rank, may have different ranks by their profiles, or must have."""

    stacks: bool = False
    """Whether ``reduce`` fills ``Total.stack``: then neither all-reduce nor secure aggregation works."""

    reweights: bool = False
    """Whether the server divides by its own weights instead of ``Total.weight``: no server optimizer fits before it."""

    several_phases: bool = False
    """Whether local training has more than one phase, so that the number of steps is not that of one phase."""

    prunes: bool = False
    """Whether clients may send less than ``values`` counts."""

    sends_aux: bool = False
    """Whether clients send additional tensors in ``Up.aux``, which cannot be aggregated like trained ones."""

    keeps_replies: bool = False
    """Whether ``reduce`` fills ``Total.replies``, because the server needs the replies of all clients at once, in place
    of their sum: no wrapper that reads the sum fits around the method."""

    cycle: float | Sequence[int] | None = None
    """The accumulation cycle of a method that merges: the rounds between merges, or a list of merge rounds."""


def planned(method: Method, size: RunSize) -> Method:
    """Return ``method`` with the defaults that follow from the size of a run."""
    return method if method.in_run is None else method.in_run(method, size)


class Method(NamedTuple):
    """A federated method as pure functions; other methods replace some of FedAvg's.

    ``rebuild(name, config)`` makes the method again, so that no closure ever crosses a process.
    """

    init: Callable[[Net, int], State]
    """(net, seed) → the state before the first round."""

    down: Callable[[Net, State, Profile], Down]
    """Server: (net, state, profile) → what a client of this profile receives."""

    begin: Callable[[Net, Down, Params, Profile], Params]
    """Client: (net, down, client_state, profile) → the trainable tree; buffers are included, but not trained."""

    up: Callable[[Net, Params, Down, Params, int], tuple[Up, Params]]
    """Client: (net, train, down, client_state, steps) → its message, and its new client state."""

    reduce: Callable[[Net, State, Down, Sequence[Up], Sequence[float]], Total]
    """Server: (net, state, down, ups, weights) → the total of one chunk of clients with the same profile."""

    server: Callable[[Net, State, Total], State]
    """Server: (net, state, total) → the state of the next round: average, accumulate, reset."""

    values: Callable[[Net, int, Sequence[Profile], Profile], Values]
    """(net, round from 1, profiles of the cohort, profile) → what one client of ``profile`` sends and receives."""

    expand: Callable[[Net, Params, Down], Params] | None = None
    """Client, every step: (net, train, down) → forward parameters; None is the identity."""

    penalty: Callable[[Net, Params, Down, Params], Tensor] | None = None
    """Client, every step: (net, train, down, client_state) → a 0-d term added to the mean loss; None is 0."""

    phases: Callable[[Net, Params], tuple[Phase, ...]] | None = None
    """Client: (net, train) → the phases of local training, in order; None trains all keys in one phase."""

    view: Callable[[Net, State], Params] | None = None
    """Server: (net, state) → the forward parameters of its model; None: what a default client begins with."""

    traits: Traits = Traits()

    name: str = ""
    """The name under which ``rebuild`` finds the method; set by its declaration."""

    config: dict[str, Any] = {}
    """The settings of the method, and its wrappers under "wrap"; set by their declarations."""

    in_run: Callable[[Method, RunSize], Method] | None = None
    """(method, size) → the method with the defaults that follow from the size of a run; None: there are none."""

    def __repr__(self) -> str:
        """Return the calls that make the method, with its settings, such as "prox(fedloru(tau=5), mu=0.1)"."""
        own = {key: value for key, value in self.config.items() if key != "wrap"}
        call = f"{short(self.name) or 'Method'}({_arguments(own)})"
        for wrapper in self.config.get("wrap", []):
            settings = {key: value for key, value in wrapper.items() if key != "name"}
            call = f"{short(str(wrapper['name']))}({', '.join(filter(None, (call, _arguments(settings))))})"
        return call


def _arguments(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items() if value is not None)

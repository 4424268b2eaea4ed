"""What the messages of a run contain, derived from its net and method, and the comparison of a message with it.

The sender of a message may be faulty or hostile, or have another configuration. A receiver
takes only tensors with the names, shapes and dtypes that the functions of the method produce, and with finite values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from fedloru import lowrank
from fedloru.errors import WireError, names, quoted
from fedloru.lowrank import Site
from fedloru.method import Down, Method, Profile, State, Up
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.grid import count


class Spec(NamedTuple):
    """The shape and dtype of a tensor, and whether all its values are finite."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    finite: bool = True

    @property
    def nbytes(self) -> int:
        """The number of bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        """Return the dtype and the shape, such as float32 (4, 8)."""
        return f"{str(self.dtype).removeprefix('torch.')} {self.shape}"


Specs = dict[str, Spec]


class Parts(NamedTuple):
    """The tensors of a message between server and client."""

    shared: Specs
    aux: Specs


class MessageSpec:
    """The tensors of each message of a run.

    Server and clients create one for each profile, once. It calls the method's own functions, on the initial state, so
    it needs no data and no training. A tensor whose initial values are not all finite, such as a mask of -inf in a
    buffer, need not be finite in a message.
    """

    def __init__(self, net: Net, method: Method, run: str, profile: Profile = ()) -> None:
        """``run`` is the hash of W₀, which both sides compute: ``tree.digest(net.params)``."""
        self.net, self.method, self.run, self.profile = net, method, run, profile
        self._initial = method.init(net, 0)
        self._latest: tuple[tuple[int, int], Parts, Parts] | None = None
        self._bases: dict[int, Specs] = {}
        """The tensors of the base at even and at odd versions."""

    def down(self, round: int, version: int) -> Parts:
        """Return the tensors that a client has received in ``round``, fresh factors included."""
        return self._both(round, version)[0]

    def up(self, round: int, version: int) -> Parts:
        """Return the tensors that a client sends in ``round``."""
        return self._both(round, version)[1]

    def increment(self, factors: Mapping[str, Tensor], version: int) -> Specs:
        """Return the tensors of the increment that leads to ``version``, of the ranks that ``factors`` have."""
        params = self.net.params
        base = self.base(version)
        if half := {key: base[key] for site in self.net.sites for key in site.keys if key in base}:
            return half
        one = {key: Spec(tuple(params[key].shape), params[key].dtype) for site in self.net.sites for key in site.keys}
        return at_ranks(self.net.sites, one, factors)

    def base(self, version: int) -> Specs:
        """Return the tensors of the base at ``version``."""
        if version % 2 not in self._bases:
            self._bases[version % 2] = specs(lowrank.turned(self.net.sites, self._initial.base, version))
        return self._bases[version % 2]

    def adapted(self, version: int) -> Specs:
        """Return the tensors of the base that increments change, which replace a long series of increments."""
        base = self.base(version)
        return {key: base[key] for key in lowrank.adapted_keys(self.net.sites, base)}

    def _both(self, round: int, version: int) -> tuple[Parts, Parts]:
        """Return the tensors of both messages of a round; all clients of a round use the same."""
        if self._latest is None or self._latest[0] != (round, version):
            state = at_version(self.net, self._initial, round - 1, version)
            down, up = untrained(self.net, self.method, state, self.profile)
            self._latest = (round, version), _parts(down), _parts(up)
        return self._latest[1], self._latest[2]


def at_version(net: Net, initial: State, round: int, version: int) -> State:
    """Return the initial state as if after ``round`` rounds, with tensors of the shapes that they have at a version."""
    base = lowrank.turned(net.sites, initial.base, version)
    shared = lowrank.restarted(net.sites, base, initial.shared)
    return initial._replace(round=round, version=version, base=base, shared=shared)


def untrained(net: Net, method: Method, state: State, profile: Profile) -> tuple[Down, Up]:
    """Return what a client of ``profile`` receives, and what it sends if it changes nothing."""
    down = method.down(net, state, profile)
    down = down._replace(seed=state.seed, round=state.round + 1, version=state.version)
    up, _ = method.up(net, method.begin(net, down, {}, profile), down, {}, 1)
    return down, up


def _parts(sent: Down | Up) -> Parts:
    return Parts(specs(sent.shared), specs(sent.aux))


def specs(tensors: Mapping[str, Tensor]) -> Specs:
    """Return the specs of ``tensors``."""
    return {key: Spec(tuple(t.shape), t.dtype, bool(t.isfinite().all())) for key, t in tensors.items()}


def at_ranks(sites: Sequence[Site], expected: Specs, got: Mapping[str, Tensor], *, most: bool = False) -> Specs:
    """Return ``expected`` with the factors of each site at the rank that they have in ``got``, which is at least 1.

    The factors in ``got`` may be codes. With ``most``, the expected rank is the highest.
    """
    changed = dict(expected)
    for site in sites:
        if got.keys() >= set(site.keys) <= expected.keys() and got[site.a].dim():
            rank = max(1, count(got, site.a) // math.prod(site.a_shape(1)))
            rank = min(rank, expected[site.a].shape[0]) if most else rank
            for key, shape in ((site.a, site.a_shape(rank)), (site.b, site.b_shape(rank))):
                changed[key] = expected[key]._replace(shape=shape)
    return changed


def compare(section: str, got: Params, expected: Specs, sender: str) -> None:
    """Check that ``got`` has exactly the tensors of ``expected``; ``section`` and ``sender`` name them in messages.

    Raises:
        WireError: a tensor is missing, unknown, of another shape or dtype, or has a value that is not finite.
    """
    where = f"{section} of {sender}"
    if missing := sorted(expected.keys() - got.keys()):
        _refuse(f"{where} lacks the tensors {names(missing)}")
    if unknown := sorted(got.keys() - expected.keys()):
        _refuse(f"{where} has the unknown tensors {names(unknown)}")
    for key, wanted in expected.items():
        t = got[key]
        found = Spec(tuple(t.shape), t.dtype, wanted.finite)
        if found != wanted:
            _refuse(f"{where} has {quoted(key)} as {found}, but {wanted} is expected")
        if wanted.finite and not bool(t.isfinite().all()):
            _refuse(f"{where} has values in {quoted(key)} that are not finite")


def _refuse(problem: str) -> NoReturn:
    raise WireError(f"{problem}: nothing of this message is used. Compare the configurations of client and server")

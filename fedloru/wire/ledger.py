"""Synchronisation of bases: who holds which version, and what each client is owed.

A base is W₀ and the increments 1 … version. A client that lags is sent the increments it missed, or the dense
site weights where those are strictly smaller; a client never seen is sent the whole base, unless clients build W₀
themselves. Law 4: after ``catch_up`` a client's base equals the server's bit for bit, since the same function adds
the same lossless increments in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import WireError
from fedloru.lowrank import Site
from fedloru.method import State
from fedloru.tree import Params


class Sync(NamedTuple):
    """What brings a client's base to ``version``: increments in order, or dense weights, or nothing.

    ``base`` is the whole base where ``first`` says that the client is new, and else the site weights or {}.
    """

    version: int
    increments: tuple[tuple[int, Params], ...]
    base: Params
    first: bool = False


class Ledger:
    """The increments that are still worth sending, and the version that each client holds.

    Its memory is bounded by the bytes of the dense site weights.
    """

    def __init__(self, sites: Sequence[Site], state: State, *, first_download: bool = True) -> None:
        """Start at the version of ``state``; ``first_download=False`` says that clients build W₀ themselves."""
        self.first_download = first_download
        self.version = state.version
        self._weights = tuple(site.weight for site in sites)
        self._increments: dict[int, Params] = {}
        self._held: dict[int, int] = {}

    def record(self, state: State) -> None:
        """Note the increment of ``state``, if its version rose; call it after every server step.

        Raises:
            WireError: the version did not stay or rise by one, or rose without an increment.
        """
        if state.version == self.version:
            return
        if state.version != self.version + 1 or not state.increment:
            raise WireError(
                f"the ledger is at version {self.version} and got version {state.version} with "
                f"{len(state.increment)} increment tensors: a server step may merge one increment, and must return it"
            )
        self.version = state.version
        self._increments[state.version] = state.increment
        self._forget(tree.nbytes(self._site_weights(state)))

    @property
    def latest(self) -> Params:
        """The increment merged last; {} if there was none, or dense weights are no larger."""
        return self._increments.get(self.version, {})

    def owed(self, client: int, state: State) -> Sync:
        """Return what brings the base of ``client`` to that of ``state``, in as few bytes as possible."""
        held = self._held.get(client, None if self.first_download else 0)
        if held is None:
            return Sync(state.version, (), state.base, first=True)
        missed = range(held + 1, state.version + 1)
        ahead = held > state.version  # the server went back to a checkpoint, and the client merged too much
        if ahead or not all(version in self._increments for version in missed):
            return Sync(state.version, (), self._site_weights(state))
        return Sync(state.version, tuple((version, self._increments[version]) for version in missed), {})

    def delivered(self, client: int, version: int) -> None:
        """Note that the base of ``client`` is now at ``version``."""
        self._held[client] = version

    def lost(self, client: int) -> None:
        """Note that ``client`` lost its base: its next contact is a first one."""
        self._held.pop(client, None)

    def save(self) -> tuple[Params, dict[str, Any]]:
        """Return the ledger as tensors, under ``increment.<version>/<key>``, and a value for JSON."""
        tensors = {f"increment.{v}/{key}": t for v, factors in self._increments.items() for key, t in factors.items()}
        held = {str(client): version for client, version in self._held.items()}
        return tensors, {"version": self.version, "first_download": self.first_download, "held": held}

    @classmethod
    def load(
        cls, sites: Sequence[Site], state: State, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> Ledger:
        """Return the ledger that ``save`` wrote beside ``state``.

        Raises:
            WireError: the ledger was saved at another version than ``state``.
        """
        if rest["version"] != state.version:
            raise WireError(
                f"the ledger was saved at version {rest['version']} and the state at {state.version}: "
                "load both from the same checkpoint"
            )
        ledger = cls(sites, state, first_download=rest["first_download"])
        ledger._held = {int(client): version for client, version in rest["held"].items()}
        for key, value in tensors.items():
            section, _, name = key.partition("/")
            ledger._increments.setdefault(int(section.removeprefix("increment.")), {})[name] = value
        return ledger

    def _site_weights(self, state: State) -> Params:
        return tree.select(state.base, self._weights)

    def _forget(self, dense: int) -> None:
        """Keep the latest increments that together are no larger than ``dense`` bytes.

        From any older one on, the site weights are smaller, today and ever after. So what is kept decides what
        is owed: all that a client missed is here, or dense weights are cheaper.
        """
        kept: dict[int, Params] = {}
        total = 0
        for version in sorted(self._increments, reverse=True):
            total += tree.nbytes(self._increments[version])
            if total > dense:
                break
            kept[version] = self._increments[version]
        self._increments = kept


def catch_up(sites: Sequence[Site], base: Mapping[str, Tensor], sync: Sync) -> Params:
    """Return a client's base after what it was sent: dense weights replaced, then increments merged in order."""
    current = {**base, **sync.base}
    for _, increment in sync.increments:
        current = lowrank.merge(sites, current, increment)
    return current


def since(sync: Sync, held: int) -> Sync:
    """Return the part of ``sync`` that a base at version ``held`` lacks, so that nothing is merged twice.

    Raises:
        WireError: increments are missing in between, or the base is ahead of ``sync``.
    """
    if sync.base:
        return sync
    lacking = tuple((version, increment) for version, increment in sync.increments if version > held)
    if len(lacking) != sync.version - held:
        raise WireError(
            f"a base at version {held} cannot reach version {sync.version} with the increments "
            f"{[version for version, _ in sync.increments]}: report version {held} to the server and ask again"
        )
    return sync._replace(increments=lacking)

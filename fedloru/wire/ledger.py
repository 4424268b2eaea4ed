"""Synchronization of bases: which version each client holds, and what it needs to catch up.

A base is W₀ plus the increments 1 … version. A client that lags behind receives the increments it missed, or the
dense site weights if those are strictly smaller. A new client receives the whole base, unless clients build W₀
themselves. Catch-up is bit-exact: after ``catch_up``, a client's base equals the server's bit for bit, because both
add the same lossless increments in the same order with the same function. Sizes are those on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import WireError
from fedloru.lowrank import Site
from fedloru.method import State
from fedloru.tree import Params
from fedloru.wire.grid import increment_widths, outline


class Sync(NamedTuple):
    """The update that brings a client's base to ``version``: increments in order, dense weights, or nothing.

    If ``first`` is True, the client is new and ``base`` is the whole base; otherwise ``base`` holds the site weights
    or is {}.
    """

    version: int
    increments: tuple[tuple[int, Params], ...]
    base: Params
    first: bool = False


NONE = -1
"""The version that the ledger has for clients without a base."""
MAX_CLIENTS = 10**8
"""The largest number of clients of a ledger that was saved by an earlier version."""
HELD = "held"
"""The key of the versions that clients hold in the tensors of a saved ledger, (K,) int64."""


class Ledger:
    """The server's record of the version that each client holds, with the increments that are still worth sending.

    The increments take at most as many bytes as the dense site weights.
    """

    def __init__(
        self, sites: Sequence[Site], state: State, *, first_download: bool = True, codec: str = "exact"
    ) -> None:
        """Start at the version of ``state``; with ``first_download=False``, clients build W₀ themselves."""
        self.first_download, self._codec = first_download, codec
        self.version = state.version
        self._sites = tuple(sites)
        self._increments: dict[int, Params] = {}
        self._held = torch.empty(0, dtype=torch.int64)
        self._clients = 0
        """One more than the highest number of a client that has been in contact; ``_held`` is at least as long."""

    def record(self, state: State) -> None:
        """Record the increment of ``state`` if the version has increased. Call this after every server step.

        Raises:
            WireError: the version neither stayed the same nor increased by one, or increased without an increment.
        """
        if state.version == self.version:
            return
        if state.version != self.version + 1 or not state.increment:
            raise WireError(
                f"the ledger is at version {self.version}, but the state is at version {state.version} with "
                f"{len(state.increment)} increment tensors: a server step may merge at most one increment, and must "
                "return it in State.increment"
            )
        self.version = state.version
        self._increments[state.version] = lowrank.sent_part(self._sites, state.base, state.increment)
        self._discard_old(tree.nbytes(self._adapted(state)))

    @property
    def latest(self) -> Params:
        """The last merged increment; {} if there is none, or if the dense site weights are smaller."""
        return self._increments.get(self.version, {})

    def owed(self, client: int, state: State) -> Sync:
        """Return the smallest update that brings the base of ``client`` to the version of ``state``."""
        held = int(self._held[client]) if client < self._clients else NONE
        if held == NONE and self.first_download:
            return Sync(state.version, (), state.base, first=True)
        held = max(held, 0)
        missed = range(held + 1, state.version + 1)
        ahead = held > state.version  # the server has returned to a checkpoint older than the client's base
        if ahead or not all(version in self._increments for version in missed):
            return Sync(state.version, (), self._adapted(state))
        return Sync(state.version, tuple((version, self._increments[version]) for version in missed), {})

    def delivered(self, client: int, version: int) -> None:
        """Record that the base of ``client`` is now at ``version``."""
        if client >= len(self._held):
            grown = self._held.new_full((max(client + 1, 2 * len(self._held)),), NONE)
            grown[: len(self._held)] = self._held
            self._held = grown
        self._held[client] = version
        self._clients = max(self._clients, client + 1)

    def lost(self, client: int) -> None:
        """Record that ``client`` has lost its base; its next contact counts as the first."""
        if client < self._clients:
            self._held[client] = NONE

    def save(self) -> tuple[Params, dict[str, Any]]:
        """Return the ledger as tensors, and a JSON-serializable dictionary.

        The keys of the tensors are ``held`` and ``increment.<version>/<key>``.
        """
        tensors = {f"increment.{v}/{key}": t for v, factors in self._increments.items() for key, t in factors.items()}
        tensors[HELD] = self._held[: self._clients].clone()
        return tensors, {"version": self.version, "first_download": self.first_download}

    @classmethod
    def load(
        cls,
        sites: Sequence[Site],
        state: State,
        tensors: Mapping[str, Tensor],
        rest: Mapping[str, Any],
        codec: str = "exact",
    ) -> Ledger:
        """Return the ledger from the output of ``save``; ``state`` is the state it was saved with.

        Earlier versions saved the versions that clients hold in the dictionary, by client.

        Raises:
            WireError: the ledger and ``state`` are at different versions, or the versions of clients are not integers.
        """
        if rest["version"] != state.version:
            raise WireError(
                f"the ledger was saved at version {rest['version']}, but the state is at version {state.version}: "
                "load both from the same checkpoint"
            )
        ledger = cls(sites, state, first_download=rest["first_download"], codec=codec)
        listed = {int(client): version for client, version in rest.get(HELD, {}).items()}
        if not all(0 <= client < MAX_CLIENTS and version >= 0 for client, version in listed.items()):
            raise WireError("the ledger lists clients or versions that are not possible: load an earlier checkpoint")
        for client, version in listed.items():
            ledger.delivered(client, version)
        for key, value in tensors.items():
            if key == HELD:
                ledger._held, ledger._clients = _versions(value), len(value)
                continue
            section, _, name = key.partition("/")
            ledger._increments.setdefault(int(section.removeprefix("increment.")), {})[name] = value
        return ledger

    def _adapted(self, state: State) -> Params:
        return tree.select(state.base, lowrank.adapted_keys(self._sites, state.base))

    def _discard_old(self, dense_bytes: int) -> None:
        """Keep only the latest increments whose total size is at most ``dense_bytes``.

        A client that needs an older increment is cheaper to update by the site weights, at this and at every later
        version. So ``owed`` sends increments exactly if all that the client missed are still kept.
        """
        kept: dict[int, Params] = {}
        total = 0
        for version in sorted(self._increments, reverse=True):
            increment = self._increments[version]
            total += tree.nbytes(outline(increment, increment_widths(increment, self._codec)))
            if total > dense_bytes:
                break
            kept[version] = increment
        self._increments = kept


def _versions(held: Tensor) -> Tensor:
    if held.dtype != torch.int64 or held.dim() != 1 or bool((held < NONE).any()):
        raise WireError("the versions that clients hold are damaged: load an earlier checkpoint")
    return held.cpu().clone()


def catch_up(sites: Sequence[Site], base: Mapping[str, Tensor], sync: Sync) -> Params:
    """Return a client's base after ``sync``: dense weights are replaced, then increments are merged in order."""
    current = {**base, **sync.base}
    if sync.base:
        old = [key for key in lowrank.adapted_keys(sites, current) if key not in sync.base]
        current = tree.omit(current, old)  # the factor that was fixed at another version
    for _, increment in sync.increments:
        current = lowrank.advance(sites, current, increment)
    return current


def since(sync: Sync, held: int) -> Sync:
    """Return the part of ``sync`` that a base at version ``held`` still needs, so that nothing is merged twice.

    Raises:
        WireError: there is a gap between the base and the increments, or the base is ahead of ``sync``.
    """
    if sync.base:
        return sync
    missing = tuple((version, increment) for version, increment in sync.increments if version > held)
    if len(missing) != sync.version - held:
        raise WireError(
            f"increments {[version for version, _ in sync.increments]} cannot bring a base from version {held} to "
            f"version {sync.version}: report version {held} to the server and request the update again"
        )
    return sync._replace(increments=missing)


def base_hash(sites: Sequence[Site], base: Mapping[str, Tensor]) -> str:
    """Return a hash of the weights that merges change."""
    return tree.digest(tree.select(base, lowrank.adapted_keys(sites, base)))

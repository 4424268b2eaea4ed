"""The three messages of a round as bytes: down to a client, up from it, and the synchronisation before them.

Real processes share nothing but these bytes; the simulation engines send the same ones through a ``Channel``.
``run`` is the hash of W₀. Rounds count from 1: a state that has done t rounds sends the messages of round t + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import WireError
from fedloru.lowrank import Site
from fedloru.lowrank.algebra import Init
from fedloru.method import Down, State, Up
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.ledger import Sync
from fedloru.wire.message import Fresh, Header, check, decode, encode


def elide(net: Net, down: Down, state: State) -> tuple[Fresh, Down]:
    """Leave out the factors that a client can draw itself, and say how it draws them; "" where it cannot."""
    init = _fresh_init(net, down.shared, state)
    return init, down._replace(shared=tree.omit(down.shared, net.factors)) if init else down


def encode_down(net: Net, down: Down, state: State, *, method: str, run: str, codec: str) -> bytes:
    """Return the message with which the server starts a client's round; fresh factors cost nothing.

    Raises:
        WireError: a value does not fit into the codec.
    """
    fresh, sent = elide(net, down, state)
    rank = _cap(net, down.shared) if fresh else 0
    header = Header("down", method, run, state.round + 1, state.version, seed=state.seed, fresh=fresh, rank=rank)
    return encode(header, {"shared": sent.shared, "aux": sent.aux}, codec)


def decode_down(net: Net, data: bytes, *, method: str, run: str) -> tuple[Header, Down]:
    """Return what the server sent, with factors that were left out drawn again in the types of ``net``.

    Raises:
        WireError: the bytes are no such message, or belong to another run.
    """
    header, sections = decode(data)
    check(header, kind="down", method=method, run=run)
    shared = sections.get("shared", {})
    if header.fresh:
        shared |= lowrank.fresh(_capped(net, header.rank), header.seed, header.version, net.params, header.fresh)
        shared = dict(sorted(shared.items()))
    return header, Down(shared, sections.get("aux", {}), header.seed, header.round, header.version)


def encode_up(
    up: Up, *, method: str, run: str, client: int, round: int, version: int, codec: str, numbers: Mapping[str, float]
) -> bytes:
    """Return a client's reply; ``numbers`` are finite, such as its weight in examples and its loss.

    Raises:
        WireError: a value does not fit into the codec, or a number is not finite.
    """
    header = Header("up", method, run, round, version, client, numbers=dict(numbers))
    return encode(header, {"shared": up.shared, "aux": up.aux}, codec)


def decode_up(
    data: bytes, *, method: str, run: str, round: int | None = None, version: int | None = None
) -> tuple[Header, Up]:
    """Return a client's reply; ``round`` and ``version`` are compared where given.

    Raises:
        WireError: the bytes are no such message, or belong to another run, round or version.
    """
    header, sections = decode(data)
    check(header, kind="up", method=method, run=run, round=round, version=version)
    return header, Up(sections.get("shared", {}), sections.get("aux", {}))


def sync_sections(sync: Sync) -> dict[str, Params]:
    """Return the sections of a synchronisation message; increments always travel lossless."""
    increments = {f"increment.{version}": increment for version, increment in sync.increments}
    return increments | {"base" if sync.first else "sites": sync.base}


def encode_sync(sync: Sync, state: State, *, method: str, run: str) -> bytes:
    """Return the message that brings a client's base to the version of ``state``, lossless."""
    header = Header("sync", method, run, state.round + 1, sync.version, seed=state.seed)
    return encode(header, sync_sections(sync), "exact")


def decode_sync(data: bytes, *, method: str, run: str) -> tuple[Header, Sync]:
    """Return what ``catch_up`` applies to a client's base.

    Raises:
        WireError: the bytes are no such message, belong to another run, or lack an increment.
    """
    header, sections = decode(data)
    check(header, kind="sync", method=method, run=run)
    first = "base" in sections
    base = sections.pop("base", sections.pop("sites", {}))
    start = header.version - len(sections) + 1
    wanted = {f"increment.{version}": version for version in range(start, header.version + 1)}
    if sections.keys() != wanted.keys():
        raise WireError(
            f"the sync message has the sections {sorted(sections)!s:.200}, but {sorted(wanted)!s:.200} lead to "
            f"version {header.version}: report the version of the base to the server and ask again"
        )
    increments = tuple((version, sections[name]) for name, version in wanted.items())
    return header, Sync(header.version, increments, base, first)


def _fresh_init(net: Net, shared: Mapping[str, Tensor], state: State) -> Fresh:
    if not net.sites or not net.factors <= shared.keys():
        return ""
    sites = _capped(net, _cap(net, shared))
    first = sites[0]
    drawn = lowrank.fresh(sites[:1], state.seed, state.version, net.params)
    if not tree.equal(tree.select(drawn, [first.a]), tree.select(shared, [first.a])):
        return ""  # trained factors: one small draw says so
    factors = tree.select(shared, net.factors)
    inits: tuple[Init, ...] = get_args(Init)
    drawings = ((init, lowrank.fresh(sites, state.seed, state.version, net.params, init)) for init in inits)
    return next((init for init, again in drawings if tree.equal(again, factors)), "")


def _cap(net: Net, shared: Mapping[str, Tensor]) -> int:
    """Return the rank that the factors of a client of small capacity reach; 0 where they have the full rank."""
    if all(shared[site.a].shape[0] == site.rank for site in net.sites):
        return 0
    return max(shared[site.a].shape[0] for site in net.sites)


def _capped(net: Net, rank: int) -> tuple[Site, ...]:
    """Return the sites with ``rank`` at most; 0 leaves them as they are."""
    return tuple(site._replace(rank=min(site.rank, rank or site.rank)) for site in net.sites)

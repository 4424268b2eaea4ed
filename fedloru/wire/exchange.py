"""The three messages of a round as bytes: down to a client, up to the server, and the sync message before them.

Separate processes exchange only these bytes; the simulation engines send the same bytes through a ``Channel``. ``run``
is the hash of W₀. Rounds count from 1: a server after t rounds sends the messages of round t + 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import WireError
from fedloru.lowrank import Site
from fedloru.method import Down, State, Up
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.ledger import Sync
from fedloru.wire.message import Header, check, decode, encode


def elide(net: Net, down: Down) -> Down:
    """Return ``down`` without the factors if the method marks them as fresh, since the receiver draws them."""
    return down._replace(shared=tree.omit(down.shared, net.factors)) if down.fresh else down


def encode_down(net: Net, down: Down, state: State, *, method: str, run: str, codec: str) -> bytes:
    """Return the message that starts a client's round, without fresh factors.

    Raises:
        WireError: a value does not fit into the codec.
    """
    sent = elide(net, down)
    rank = _cap(net, down.shared) if down.fresh else 0
    header = Header("down", method, run, state.round + 1, state.version, seed=state.seed, fresh=down.fresh, rank=rank)
    return encode(header, {"shared": sent.shared, "aux": sent.aux}, codec)


def decode_down(net: Net, data: bytes, *, method: str, run: str) -> tuple[Header, Down]:
    """Return the header and content of a message, with fresh factors drawn again in the dtypes of ``net``.

    Raises:
        WireError: the bytes are not a message from the server, or belong to another run.
    """
    header, sections = decode(data)
    check(header, kind="down", method=method, run=run)
    shared = sections.get("shared", {})
    if header.fresh:
        shared |= lowrank.init_factors(_capped(net, header.rank), header.seed, header.version, net.params, header.fresh)
        shared = dict(sorted(shared.items()))
    down = Down(shared, sections.get("aux", {}), header.seed, header.round, header.version, header.fresh)
    return header, down


def encode_up(
    up: Up, *, method: str, run: str, client: int, round: int, version: int, codec: str, numbers: Mapping[str, float]
) -> bytes:
    """Return a client's reply as bytes; ``numbers`` are finite, such as its weight in examples and its loss.

    Raises:
        WireError: a value does not fit into the codec, or a number is not finite.
    """
    header = Header("up", method, run, round, version, client, numbers=dict(numbers))
    return encode(header, {"shared": up.shared, "aux": up.aux}, codec)


def decode_up(
    data: bytes, *, method: str, run: str, round: int | None = None, version: int | None = None
) -> tuple[Header, Up]:
    """Return the header and content of a client's reply; ``round`` and ``version`` are checked unless they are None.

    Raises:
        WireError: the bytes are not a reply, or belong to another run, round or version.
    """
    header, sections = decode(data)
    check(header, kind="up", method=method, run=run, round=round, version=version)
    return header, Up(sections.get("shared", {}), sections.get("aux", {}))


def sync_sections(sync: Sync) -> dict[str, Params]:
    """Return the sections of a sync message; increments are always sent without loss."""
    increments = {f"increment.{version}": increment for version, increment in sync.increments}
    return increments | {"base" if sync.first else "sites": sync.base}


def encode_sync(sync: Sync, state: State, *, method: str, run: str) -> bytes:
    """Return the message that brings a client's base to the version of ``state``, without loss."""
    header = Header("sync", method, run, state.round + 1, sync.version, seed=state.seed)
    return encode(header, sync_sections(sync), "exact")


def decode_sync(data: bytes, *, method: str, run: str) -> tuple[Header, Sync]:
    """Return the header of a sync message, and the content that ``catch_up`` applies to a client's base.

    Raises:
        WireError: the bytes are not a sync message, belong to another run, or lack an increment.
    """
    header, sections = decode(data)
    check(header, kind="sync", method=method, run=run)
    first = "base" in sections
    base = sections.pop("base", sections.pop("sites", {}))
    start = header.version - len(sections) + 1
    expected = {f"increment.{version}": version for version in range(start, header.version + 1)}
    if sections.keys() != expected.keys():
        raise WireError(
            f"the sync message has the sections {sorted(sections)!s:.200}, but version {header.version} requires "
            f"{sorted(expected)!s:.200}: report the version of the base to the server and request the message again"
        )
    increments = tuple((version, sections[name]) for name, version in expected.items())
    return header, Sync(header.version, increments, base, first)


def _cap(net: Net, shared: Mapping[str, Tensor]) -> int:
    """Return the highest rank of the factors if they are below full rank, or else 0."""
    if all(shared[site.a].shape[0] == site.rank for site in net.sites):
        return 0
    return max(shared[site.a].shape[0] for site in net.sites)


def _capped(net: Net, rank: int) -> tuple[Site, ...]:
    """Return the sites with a rank of at most ``rank``; 0 means no limit."""
    return tuple(site._replace(rank=min(site.rank, rank or site.rank)) for site in net.sites)

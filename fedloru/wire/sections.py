"""The sections of messages: what is in them, with integer codes in place of matrices if the codec has them.

Codes of a message down stand for the values themselves, rounded in the same way for all clients of a round. In a
message up, they stand for the difference from what the client received, if that is a matrix of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Generator, Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, State, Up
from fedloru.net import Net
from fedloru.rng import gen
from fedloru.tree import Params
from fedloru.wire.codec import find
from fedloru.wire.grid import increment_widths, outline, pack, unpack, widths
from fedloru.wire.header import Header, reject
from fedloru.wire.ledger import Sync
from fedloru.wire.spec import Parts


def elide(net: Net, down: Down) -> Down:
    """Return ``down`` without the factors if the method marks them as fresh, since the receiver draws them."""
    return down._replace(shared=tree.omit(down.shared, net.factors)) if down.fresh else down


def down_sections(net: Net, sent: Down, state: State, codec: str) -> dict[str, Params]:
    """Return the sections of a message down; all clients of a round receive the same bits."""
    return _sections(net, sent, codec, partial(gen, state.seed, "codec", state.round + 1))


def up_sections(net: Net, up: Up, down: Down, client: int, codec: str) -> dict[str, Params]:
    """Return the sections of the reply of ``client`` to ``down``."""
    return _sections(net, up, codec, partial(gen, down.seed, "codec", down.round, client), down.shared)


def _sections(
    net: Net, sent: Down | Up, codec: str, draw: Callable[..., Generator], received: Mapping[str, Tensor] | None = None
) -> dict[str, Params]:
    """Return the sections of a message, with codes in place of matrices if the codec has them."""
    shared, aux = widths(net, "shared", sent.shared, codec), widths(net, "aux", sent.aux, codec)
    return {
        "shared": pack(sent.shared, shared, partial(draw, "shared"), received),
        "aux": pack(sent.aux, aux, partial(draw, "aux")),
    }


def received(net: Net, header: Header, sections: Mapping[str, Params], like: Parts | Down) -> Down:
    """Return the content of a message from the server, like ``like``, with fresh factors drawn again."""
    shared = unpack(sections.get("shared", {}), like.shared)
    if header.fresh == "zero":
        zeros = [key for key in like.shared if key in net.factors]
        shared |= {key: torch.zeros(tuple(like.shared[key].shape), dtype=like.shared[key].dtype) for key in zeros}
        shared = dict(sorted(shared.items()))
    elif header.fresh:
        if header.rank >= max((site.rank for site in net.sites), default=1):
            where = f"the {header.kind} message for round {header.round}"
            reject(f"{where} has rank {header.rank}, which limits no factor; expected less, or 0")
        shared |= lowrank.init_factors(_capped(net, header.rank), header.seed, header.version, net.params, header.fresh)
        shared = dict(sorted(shared.items()))
    aux = unpack(sections.get("aux", {}), like.aux)
    return Down(shared, aux, header.seed, header.round, header.version, header.fresh)


def answered(sent: Down, arrived: Down, codec: str) -> Down:
    """Return the message to which the server takes replies to refer.

    With integer codes, replies have differences from what arrived. The server adds them to the values that it has sent,
    before they were rounded: so the rounding of one round is not part of the next one.
    """
    return sent if find(codec).bits else arrived


def replied(sections: Mapping[str, Params], like: Parts | Up, down: Down) -> Up:
    """Return the content of a reply to ``down``, like ``like``."""
    return Up(unpack(sections.get("shared", {}), like.shared, down.shared), unpack(sections.get("aux", {}), like.aux))


def sync_outline(sync: Sync, codec: str) -> dict[str, Params]:
    """Return the sections of a sync message, those tensors that are sent as codes without their values."""
    return _sync_sections(sync, lambda increment: outline(increment, increment_widths(increment, codec)))


def sync_sections(sync: Sync, codec: str) -> dict[str, Params]:
    """Return the sections of a sync message; increments are ``on_grid``, so codes represent them without loss."""
    return _sync_sections(sync, lambda increment: pack(increment, increment_widths(increment, codec)))


def _sync_sections(sync: Sync, packed: Callable[[Params], Params]) -> dict[str, Params]:
    increments = {f"increment.{version}": packed(increment) for version, increment in sync.increments}
    return increments | {"base" if sync.first else "sites": sync.base}


def _capped(net: Net, rank: int) -> tuple[Site, ...]:
    """Return the sites with a rank of at most ``rank``; 0 means no limit."""
    return tuple(site._replace(rank=min(site.rank, rank or site.rank)) for site in net.sites)

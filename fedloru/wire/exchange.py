"""The three messages of a round as bytes: down to a client, up to the server, and the sync message before them.

Separate processes exchange only these bytes; the simulation engines send the same bytes through a ``Channel``. ``run``
is the hash of W₀. Rounds count from 1: a server after t rounds sends the messages of round t + 1. The receiver of a
message compares it with the ``MessageSpec`` of the run, and refuses everything else with a ``WireError``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from fedloru import tree
from fedloru.errors import WireError, names
from fedloru.method import Down, State, Up
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.grid import unpack
from fedloru.wire.header import Header, Kind, check, check_use, reject
from fedloru.wire.ledger import Sync
from fedloru.wire.message import decode, encode, length
from fedloru.wire.sections import (
    down_sections,
    elide,
    received,
    replied,
    sync_outline,
    sync_sections,
    up_sections,
)
from fedloru.wire.spec import MessageSpec, Parts, at_ranks, compare

NUMBERS = ("weight", "loss")
"""The numbers of a reply: the client's examples, and its mean loss per example."""
MIN_WEIGHT, MAX_WEIGHT = 1.0, 1e9
"""The range of a client's weight, in examples."""


def encode_down(net: Net, down: Down, state: State, *, method: str, run: str, codec: str) -> bytes:
    """Return the message that starts a client's round, without fresh factors.

    Raises:
        WireError: a value does not fit into the codec.
    """
    header = down_header(net, down, state, method=method, run=run)
    return encode(header, down_sections(net, elide(net, down), state, codec), codec)


def down_header(net: Net, down: Down, state: State, *, method: str, run: str) -> Header:
    """Return the header of the message that starts a client's round."""
    rank = _cap(net, down.shared) if down.fresh in ("a", "both") else 0
    return Header("down", method, run, state.round + 1, state.version, seed=state.seed, fresh=down.fresh, rank=rank)


def decode_down(
    data: bytes, spec: MessageSpec, *, round: int | None = None, version: int | None = None
) -> tuple[Header, Down]:
    """Return the header and content of a message, with fresh factors drawn again in the dtypes of ``spec.net``.

    Args:
        data: the message.
        spec: what a message of this run contains.
        round: the only round that is accepted; by default any.
        version: the only version that is accepted, that of the client's base; by default any.

    Raises:
        WireError: the bytes are not a message from the server, belong to another run, round or version, or contain
            anything but the tensors that ``spec`` expects.
    """
    header, sections = decode(data)
    _check(header, spec, "down", round, version)
    expected = spec.down(header.round, header.version)
    if header.fresh and (sent := sorted(sections.get("shared", {}).keys() & spec.net.factors)):
        reject(f"{_described(header)} has fresh factors, but also contains the factors {names(sent)}")
    down = received(spec.net, header, sections, expected)
    _compare_parts(header, sections, down, expected)
    return header, down


def encode_up(
    net: Net,
    up: Up,
    down: Down,
    *,
    method: str,
    run: str,
    client: int,
    round: int,
    version: int,
    codec: str,
    numbers: Mapping[str, float],
) -> bytes:
    """Return a client's reply to ``down`` as bytes.

    ``numbers`` are finite, such as its weight in examples and its loss.

    Raises:
        WireError: a value does not fit into the codec, or a number is not finite.
    """
    header = Header("up", method, run, round, version, client, numbers=dict(numbers))
    return encode(header, up_sections(net, up, down, client, codec), codec)


def decode_up(
    data: bytes,
    spec: MessageSpec,
    down: Down,
    *,
    round: int,
    version: int,
    client: int | None = None,
    numbers: Collection[str] = NUMBERS,
) -> tuple[Header, Up]:
    """Return the header and content of a client's reply.

    Args:
        data: the message.
        spec: what a message of this run contains.
        down: the message to which the client replies, as the server takes replies to refer to it (``answered``).
        round: the round that the server trains.
        version: the version of the server's base.
        client: the client from which the reply was received; by default any.
        numbers: the names of the numbers that are expected, all of them.

    Raises:
        WireError: the bytes are not a reply, belong to another run, round, version or client, or contain anything but
            the tensors and numbers that are expected; or the weight is out of range.
    """
    header, sections = decode(data)
    _check(header, spec, "up", round, version, client)
    _check_numbers(header, numbers)
    expected = spec.up(round, version)
    if spec.method.traits.prunes:
        sent = sections.get("shared", {})
        expected = expected._replace(shared=at_ranks(spec.net.sites, expected.shared, sent, most=True))
    up = replied(sections, expected, down)
    _compare_parts(header, sections, up, expected)
    return header, up


def encode_sync(sync: Sync, state: State, *, method: str, run: str, codec: str) -> bytes:
    """Return the message that brings a client's base to the version of ``state``, without loss."""
    return encode(sync_header(sync, state, method=method, run=run), sync_sections(sync, codec), "exact")


def sync_length(sync: Sync, state: State, *, method: str, run: str, codec: str) -> int:
    """Return the length in bytes of ``encode_sync``, without encoding it."""
    return length(sync_header(sync, state, method=method, run=run), sync_outline(sync, codec), "exact")


def sync_header(sync: Sync, state: State, *, method: str, run: str) -> Header:
    """Return the header of the message that brings a client's base to the version of ``state``."""
    return Header("sync", method, run, state.round + 1, sync.version, seed=state.seed)


def decode_sync(
    data: bytes, spec: MessageSpec, *, round: int | None = None, held: int | None = None
) -> tuple[Header, Sync]:
    """Return the header of a sync message, and the content that ``catch_up`` applies to a client's base.

    Args:
        data: the message.
        spec: what a message of this run contains.
        round: the only round that is accepted; by default any.
        held: the version of the client's base; increments that do not start at the next one are refused. By default,
            any series is accepted, and ``since`` selects the part that is missing.

    Raises:
        WireError: the bytes are not a sync message, belong to another run, lack an increment, or contain anything but
            the tensors that ``spec`` expects.
    """
    header, sections = decode(data)
    _check(header, spec, "sync", round, None)
    sync = _sync(header, sections, held)
    _check_size(spec, sync)
    unpacked = tuple((version, unpack(sent, spec.increment(sent, version))) for version, sent in sync.increments)
    sync = sync._replace(increments=unpacked)
    _compare_sync(spec, header, sync)
    return header, sync


def _sync(header: Header, sections: dict[str, Params], held: int | None) -> Sync:
    """Return a whole base, the site weights, or a series of increments as they were sent."""
    first = "base" in sections
    if first or "sites" in sections:
        return Sync(header.version, (), _only(sections, "base" if first else "sites"), first)
    start = header.version - len(sections) + 1 if held is None else held + 1
    series = range(max(start, 1), header.version + 1)
    expected = {f"increment.{version}": version for version in series[: len(sections) + 1]}
    if sections.keys() != expected.keys():
        raise WireError(
            f"the sync message has the sections {names(sorted(sections))}, but version {header.version} requires "
            f"{names(expected)}: report the version of the base to the server and request the message again"
        )
    return Sync(header.version, tuple((version, sections[name]) for name, version in expected.items()), {})


def _only(sections: dict[str, Params], name: str) -> Params:
    if len(sections) > 1:
        reject(f"the sync message has the sections {names(sorted(sections))}; expected only {name!r}")
    return sections[name]


def _compare_sync(spec: MessageSpec, header: Header, sync: Sync) -> None:
    sender = _described(header)
    if sync.base:
        compare("the base", sync.base, spec.base(sync.version) if sync.first else spec.adapted(sync.version), sender)
    for version, factors in sync.increments:
        compare(f"increment {version}", factors, spec.increment(factors, version), sender)


def _check_size(spec: MessageSpec, sync: Sync) -> None:
    limit = sum(weight.nbytes for weight in spec.adapted(sync.version).values())
    if (size := sum(tree.nbytes(sent) for _, sent in sync.increments)) > limit:
        reject(f"the increments of the sync message take {size} bytes; expected at most {limit}, the site weights")


def _check(
    header: Header, spec: MessageSpec, kind: Kind, round: int | None, version: int | None, client: int | None = None
) -> None:
    check(header, kind=kind, method=spec.method.name, run=spec.run, round=round, version=version, client=client)
    check_use(header)


def _check_numbers(header: Header, expected: Collection[str]) -> None:
    if header.numbers.keys() != set(expected):
        got = names(header.numbers) or "none"
        reject(f"{_described(header)} has the numbers {got}; expected {names(expected) or 'none'}")
    weight = header.numbers.get("weight", 1.0)
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        reject(f"{_described(header)} has the weight {weight:g}; expected examples, {MIN_WEIGHT:g} to {MAX_WEIGHT:g}")


def _compare_parts(header: Header, sections: Mapping[str, Params], got: Down | Up, expected: Parts) -> None:
    sender = _described(header)
    if unknown := sorted(sections.keys() - {"shared", "aux"}):
        reject(f"{sender} has the unknown sections {names(unknown)}")
    compare("the section shared", got.shared, expected.shared, sender)
    compare("the section aux", got.aux, expected.aux, sender)


def _described(header: Header) -> str:
    return f"the {header.kind} message for round {header.round}"  # the receiver knows the name of the sender


def _cap(net: Net, shared: Mapping[str, Tensor]) -> int:
    """Return the highest rank of the factors if they are below full rank, or else 0."""
    if all(shared[site.a].shape[0] == site.rank for site in net.sites):
        return 0
    return max(shared[site.a].shape[0] for site in net.sites)

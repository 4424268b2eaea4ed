"""The validation of what clients send: nothing reaches the aggregate before all checks have passed."""

from __future__ import annotations

from typing import NamedTuple

from fedloru import tree, wire
from fedloru.errors import WireError
from fedloru.flower.protocol import Report
from fedloru.method import Down, Profile, Up
from fedloru.net import Net
from fedloru.wire import MessageSpec
from fedloru.wire.spec import Specs


class Reply(NamedTuple):
    """A valid reply: its message, its weight in examples, its mean loss in nats, and its size in bytes."""

    client: int
    profile: Profile
    up: Up
    weight: float
    loss: float
    nbytes: int


class Limits(NamedTuple):
    """What the server accepts from a client: its number of examples, as it stated, and the norm of its update."""

    examples: int
    max_norm: float | None


PLAUSIBLE = 1e6
"""By which factor a value may exceed all values that the client received; sums of larger ones would overflow."""


def validated(
    report: Report,
    tensors: bytes,
    spec: MessageSpec,
    down: Down,
    limits: Limits,
    *,
    client: int,
    round: int,
    version: int,
    answers: str,
) -> Reply:
    """Return the reply of a client to the request with the hash ``answers``.

    Raises:
        WireError: it answers another request, is too large, contains anything but the expected tensors and numbers, has
            another number of examples than stated, or its values or its update are too large.
    """
    if report.answers != answers:
        raise WireError(f"it answers the request {report.answers or 'none'}, but {answers} is expected")
    if len(tensors) > (limit := largest(spec, round, version)):
        raise WireError(f"it has {len(tensors):,} bytes; expected at most {limit:,}")
    header, up = wire.decode_up(tensors, spec, down, round=round, version=version, client=client)
    weight = header.numbers["weight"]
    if weight != limits.examples:
        raise WireError(f"it states {weight:g} examples, but the client stated {limits.examples} when it joined")
    if (value := magnitude(up)) > (most := PLAUSIBLE * max(1.0, magnitude(down))):
        raise WireError(f"it has a value of {value:g}; expected at most {most:g}, a million times what it received")
    if limits.max_norm is not None and not (norm := update_norm(spec.net, up, down)) <= limits.max_norm:
        raise WireError(f"its update has the norm {norm:g}; expected at most {limits.max_norm:g} (federation.max_norm)")
    return Reply(client, spec.profile, up, weight, header.numbers["loss"], len(tensors))


def largest(spec: MessageSpec, round: int, version: int) -> int:
    """Return the largest size in bytes of a reply: its tensors, and ample room for their names and the header."""
    up = spec.up(round, version)
    return sum(_nbytes(part) + sum(256 + 6 * len(key) for key in part) for part in up) + 2**16


def magnitude(message: Up | Down) -> float:
    """Return the largest absolute value in a message."""
    parts = (t for part in (message.shared, message.aux) for t in part.values() if t.numel() and t.is_floating_point())
    return max((float(t.abs().max()) for t in parts), default=0.0)


def update_norm(net: Net, up: Up, down: Down) -> float:
    """Return the Euclidean norm of what a client changed; tensors that it did not receive count in full."""
    sent = tree.omit(up.shared, net.buffers)
    alike = [key for key, value in sent.items() if key in down.shared and down.shared[key].shape == value.shape]
    change = tree.sub(tree.select(sent, alike), tree.to(tree.select(down.shared, alike), "cpu"))
    return float(tree.norm(change | tree.omit(sent, alike)))


def _nbytes(specs: Specs) -> int:
    return sum(spec.nbytes for spec in specs.values())

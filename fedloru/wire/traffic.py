"""The account of bytes, by direction and kind. Each profile of clients has one of its own; their sum is the total.

MB means 10⁶ bytes wherever these numbers are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedloru.errors import WireError
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.codec import payload

Direction = Literal["down", "up"]

KINDS = ("factors", "dense", "statistics", "aux", "increments", "first_download", "envelope")
"""What bytes are spent on; ``increments`` is all catching up, dense weights for a client that lags included."""


@dataclass(frozen=True)
class Traffic:
    """Bytes sent ``down`` to clients and ``up`` from them, by kind; a value that never changes.

    ``Traffic(**traffic.table())`` is the same account again, so that it passes through JSON.
    """

    down: Mapping[str, int] = field(default_factory=dict)
    up: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for direction, given in (("down", self.down), ("up", self.up)):
            if unknown := given.keys() - set(KINDS):
                raise WireError(f"traffic {direction} has the kinds {sorted(unknown)}; expected {', '.join(KINDS)}")
            object.__setattr__(self, direction, {kind: given.get(kind, 0) for kind in KINDS})

    def message(
        self,
        direction: Direction,
        parts: Mapping[str, Mapping[str, Tensor]],
        codec: str,
        *,
        length: int | None = None,
        copies: int = 1,
    ) -> Traffic:
        """Return the account after ``copies`` of a message with these tensors by kind.

        ``length`` is the bytes of the whole message; None counts no envelope.
        """
        sizes = {kind: payload({kind: part}, codec) for kind, part in parts.items()}
        if length is not None:
            sizes["envelope"] = length - sum(sizes.values())
        return self + Traffic(**{direction: {kind: size * copies for kind, size in sizes.items()}})

    def total(self, direction: Direction) -> int:
        """Return all bytes in one direction."""
        return sum(self.table()[direction].values())

    def table(self) -> dict[str, dict[str, int]]:
        """Return bytes by direction and kind, all kinds present."""
        return {"down": dict(self.down), "up": dict(self.up)}

    def __add__(self, other: Traffic) -> Traffic:
        """Return both accounts together."""
        return self._combine(other, 1)

    def __sub__(self, other: Traffic) -> Traffic:
        """Return what was added since ``other``."""
        return self._combine(other, -1)

    def _combine(self, other: Traffic, sign: int) -> Traffic:
        return Traffic(
            {kind: self.down[kind] + sign * other.down[kind] for kind in KINDS},
            {kind: self.up[kind] + sign * other.up[kind] for kind in KINDS},
        )


def kinds(net: Net, shared: Mapping[str, Tensor], aux: Mapping[str, Tensor]) -> dict[str, Params]:
    """Split a message by kind; a trained tensor that the model itself does not have is a factor."""
    factors, statistics = net.factors, net.statistics
    split: dict[str, Params] = {"factors": {}, "dense": {}, "statistics": {}, "aux": dict(aux)}
    for key, value in shared.items():
        own = key in net.params or key in net.buffers
        kind = "statistics" if key in statistics else "factors" if key in factors or not own else "dense"
        split[kind][key] = value
    return split

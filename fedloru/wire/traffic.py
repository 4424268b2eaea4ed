"""Byte counts by direction and kind. They are kept for each profile of clients; the sum over profiles is the total.

Wherever these numbers are displayed, MB are 10⁶ bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedloru.errors import WireError
from fedloru.method import Profile
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.codec import payload
from fedloru.wire.grid import SCALES, outline, widths

Direction = Literal["down", "up"]

KINDS = ("factors", "dense", "statistics", "aux", "increments", "first_download", "envelope")
"""The kinds of bytes; ``increments`` counts all catch-up, including dense weights for clients that lag behind."""


@dataclass(frozen=True)
class Traffic:
    """Bytes sent ``down`` to clients and ``up`` from clients, by kind. Instances are immutable.

    ``Traffic(**traffic.table())`` equals ``traffic``; use ``table`` to store it as JSON.
    """

    down: Mapping[str, int] = field(default_factory=dict)
    up: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for direction, counts in (("down", self.down), ("up", self.up)):
            if unknown := counts.keys() - set(KINDS):
                raise WireError(
                    f"traffic {direction} has the unknown kinds {sorted(unknown)}; expected {', '.join(KINDS)}"
                )
            object.__setattr__(self, direction, {kind: counts.get(kind, 0) for kind in KINDS})

    def message(
        self,
        direction: Direction,
        parts: Mapping[str, Mapping[str, Tensor]],
        codec: str,
        *,
        length: int | None = None,
        copies: int = 1,
    ) -> Traffic:
        """Return this traffic plus ``copies`` copies of a message; ``parts`` are its tensors by kind.

        ``length`` is the size of all copies in bytes, whose envelopes may differ; if None, no envelope is counted.
        """
        sizes = {kind: payload({kind: part}, codec) * copies for kind, part in parts.items()}
        if length is not None:
            sizes["envelope"] = length - sum(sizes.values())
        return self + Traffic(**{direction: sizes})

    def total(self, direction: Direction) -> int:
        """Return the bytes of all kinds in one direction."""
        return sum(self.table()[direction].values())

    def table(self) -> dict[str, dict[str, int]]:
        """Return the bytes by direction and kind; every kind is present."""
        return {"down": dict(self.down), "up": dict(self.up)}

    def __add__(self, other: Traffic) -> Traffic:
        """Return the sum of both byte counts."""
        return self._combine(other, 1)

    def __sub__(self, other: Traffic) -> Traffic:
        """Return the bytes added since ``other``."""
        return self._combine(other, -1)

    def _combine(self, other: Traffic, sign: int) -> Traffic:
        return Traffic(
            {kind: self.down[kind] + sign * other.down[kind] for kind in KINDS},
            {kind: self.up[kind] + sign * other.up[kind] for kind in KINDS},
        )


def joined(*accounts: Mapping[Profile, Traffic]) -> dict[Profile, Traffic]:
    """Return the sum of accounts by profile."""
    total: dict[Profile, Traffic] = {}
    for account in accounts:
        for profile, traffic in account.items():
            total[profile] = total.get(profile, Traffic()) + traffic
    return total


def kinds(net: Net, shared: Mapping[str, Tensor], aux: Mapping[str, Tensor], codec: str) -> dict[str, Params]:
    """Split the tensors of a message by kind, those that are sent as codes without their values.

    The scales of a tensor are of its kind. A tensor in ``shared`` that is not in the model counts as a factor.
    """
    factors, statistics = net.factors, net.statistics
    auxiliary = outline(aux, widths(net, "aux", aux, codec))
    split: dict[str, Params] = {"factors": {}, "dense": {}, "statistics": {}, "aux": auxiliary}
    for name, value in outline(shared, widths(net, "shared", shared, codec)).items():
        key = name.removesuffix(SCALES)
        in_model = key in net.params or key in net.buffers
        kind = "statistics" if key in statistics else "factors" if key in factors or not in_model else "dense"
        split[kind][name] = value
    return split

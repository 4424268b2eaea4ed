"""The interface between a leaf, which runs a layer for m clients at once, and the fold that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fedloru.engine.fused.gradients import Outer
from fedloru.engine.fused.local_weight import LocalWeight


class Mask(NamedTuple):
    """Which rows of a folded batch are examples: ``valid`` (m, b), and the ``fewest`` that a client has.

    The number is known without reading from the device, which would wait for it in every step.
    """

    valid: Tensor
    fewest: int


class Tensors(Protocol):
    """What a leaf reads: the tensors of its module, and the current call."""

    @property
    def clients(self) -> int:
        """The number of folded clients, m."""

    @property
    def mask(self) -> Mask | None:
        """Which batch rows are examples; None: all are."""

    @property
    def rows(self) -> int:
        """The number of rows of the folded batch, m·b."""

    def get(self, name: str) -> tuple[Tensor | None, bool]:
        """Return a tensor of this module, and whether it is stacked over clients."""

    def local(self, name: str, rows: int) -> LocalWeight | None:
        """Return a weight if its clients train it from one start; ``rows`` is the number of rows of its input."""

    def sink(self, name: str) -> list[Outer] | None:
        """Return where the gradient of a tensor may be added as a product; None unless it is a leaf of the graph."""

    def weight_space(self, rows: int, o: int, i: int, r: int) -> bool:
        """Return whether computing W + s·BA once is cheaper than applying W and BA separately."""


Leaf = Callable[[Tensors, Any, Tensor], Tensor]
"""Maps (tensors, module, x) with x (m·b, …) to the outputs that m separate layers have."""

"""The weight of a linear layer that clients train with SGD, each from the same start.

A step of SGD with n examples changes the weight by a product, −η·gᵀx, of the gradients g (n, o) at the layer's outputs
and its inputs x (n, i). After few steps, the weight of client k is therefore W plus a matrix of low rank:

    W_k = W + Σ_j a_j g_kjᵀ x_kj,    x W_kᵀ = x Wᵀ + Σ_j a_j (x x_kjᵀ) g_kj

As in low-rank training, the product with W is then one over the examples of all clients, and no step reads or writes a
weight of any client. With momentum μ, only the numbers a_j change. The weights are formed in one product at the end, or
when the examples become so many that products with them cost more than products with the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedloru.engine.fused.gradients import Outer


class LocalWeight:
    """The weights of C clients that start from ``start`` (o, i), in their steps of SGD.

    ``anchor`` is the leaf by which a backward pass reaches the layer.

    Args:
        capacity: the maximum number of examples of a client before the weights are formed.
    """

    def __init__(self, start: Tensor, clients: int, capacity: int, rate: float, momentum: float) -> None:
        self.start, self.rate, self.momentum = start, rate, momentum
        self.clients = clients
        self.anchor = torch.zeros((), requires_grad=True, device=start.device)
        self._values = start.new_empty(clients, *start.shape)
        self._velocity: Tensor | None = None
        self._g, self._x = (start.new_empty(clients, capacity, size) for size in start.shape)
        self._a, self._b = start.new_zeros(2, capacity).unbind()
        self._rows = 0
        self._is_formed = False

    def linear(self, x: Tensor, sink: list[Outer]) -> Tensor:
        """Map (m, n, i) to (m, n, o); the backward pass adds the gradient of the weights to ``sink``."""
        g, rows, a = self._products()
        y: Tensor = _Linear.apply(x, self.anchor, self._weights(), g, rows, a, sink)  # type: ignore[no-untyped-call]
        return y

    def step(self, gradient: Outer | None) -> None:
        """Update the weights with a gradient (None: it is 0)."""
        if gradient is None:
            gradient = Outer(self._g[: self.clients, :0], self._x[: self.clients, :0])
        if not self._is_formed and self._rows + gradient.x.shape[1] > self._x.shape[1]:
            self._velocity = self._sum(self._b, slice(self.clients))
            self._form(slice(self.clients))
            self._is_formed = True
        if self._is_formed:
            self._dense_step(gradient)
        else:
            self._append(gradient)

    def keep(self, clients: int) -> None:
        """Keep training the first ``clients``; the others have finished."""
        if not self._is_formed:
            self._form(slice(clients, self.clients))
        self.clients = clients

    def finish(self) -> Tensor:
        """Return the weights of all clients, (C, o, i)."""
        self.keep(0)
        return self._values

    def _weights(self) -> Tensor:
        return self._values[: self.clients] if self._is_formed else self.start

    def _products(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return g (m, R, o), x (m, R, i) and a (R,); R is 0 if the weights have been formed."""
        rows = 0 if self._is_formed else self._rows
        return self._g[: self.clients, :rows], self._x[: self.clients, :rows], self._a[:rows]

    def _append(self, gradient: Outer) -> None:
        new = slice(self._rows, self._rows + gradient.x.shape[1])
        self._g[: self.clients, new], self._x[: self.clients, new] = gradient
        self._b[: self._rows] *= self.momentum
        self._b[new] = 1.0
        self._rows = new.stop
        self._a[: self._rows].sub_(self._b[: self._rows], alpha=self.rate)

    def _sum(self, coefficients: Tensor, clients: slice, to: Tensor | None = None) -> Tensor:
        """Return Σ_j c_j g_jᵀ x_j of ``clients``, added to ``to``."""
        g, x = self._g[clients, : self._rows], self._x[clients, : self._rows]
        scaled = (g * coefficients[: self._rows, None]).mT
        return torch.bmm(scaled, x) if to is None else torch.baddbmm(to, scaled, x)

    def _form(self, clients: slice) -> None:
        self._values[clients] = self._sum(self._a, clients, self.start)

    def _dense_step(self, gradient: Outer) -> None:
        values, (g, x) = self._values[: self.clients], gradient
        if not self.momentum:
            values.baddbmm_(g.mT, x, alpha=-self.rate)
            return
        assert self._velocity is not None
        velocity = self._velocity[: self.clients].baddbmm_(g.mT, x, beta=self.momentum)
        values.add_(velocity, alpha=-self.rate)


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + (x Xᵀ·a) G for a shared W (o, i), or y = x Wᵀ for W (m, o, i); the gradient of W is kept as gᵀx."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor, w: Tensor, g: Tensor, rows: Tensor, a: Tensor, sink: list[Outer]
    ) -> Tensor:
        """Map x (m, n, i) with w, g (m, R, o), rows (m, R, i) and a (R,) to (m, n, o)."""
        ctx.save_for_backward(x, w, g, rows, a)
        ctx.sink = sink
        return _product(x, w.mT, rows.mT, g, a)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x, and add the product of the gradient at y and x to the sink."""
        (g_y,) = gradients
        x, w, g, rows, a = ctx.saved_tensors
        ctx.sink.append(Outer(g_y, x))
        dx = _product(g_y, w, g.mT, rows, a) if ctx.needs_input_grad[0] else None
        return dx, None, None, None, None, None, None


def _product(x: Tensor, w: Tensor, left: Tensor, right: Tensor, a: Tensor) -> Tensor:
    """Return x w + ((x left)·a) right, for x (m, n, i) and a shared w (i, o), or x w for w (m, i, o)."""
    if w.ndim == 3:
        return torch.bmm(x, w)
    m, n, _ = x.shape
    y = torch.mm(x.reshape(m * n, -1), w).view(m, n, -1)
    return y.baddbmm_(torch.bmm(x, left).mul_(a), right) if len(a) else y

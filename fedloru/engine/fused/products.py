"""Per-client products: linear, convolution and low-rank layers with a folded client axis.

In a folded activation, the m clients are the outer part of axis 0, (m·b, …). A parameter tensor is either *stacked*,
(m, *shape), with one entry per client, or shared by all clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.engine.fused.gradients import Outer, largest_rank
from fedloru.lowrank.layers import autocast_dtype


def rounded(*factors: Tensor) -> Sequence[Tensor]:
    """Return the factors of a product as autocast would, if it is active; it does not reach into custom functions.

    Rounding is outside of the custom functions, so their backward passes get tensors of one dtype, and the gradients
    are converted back to that of the parameters.
    """
    dtype = autocast_dtype(factors[0].device)
    return factors if dtype is None else [t.to(dtype) if t.dtype != torch.float64 else t for t in factors]


def compatible(w: Tensor, a: Tensor) -> bool:
    """Return whether W and BA can be added: they have the same dtype, or autocast computes both products in one."""
    return w.dtype == a.dtype or autocast_dtype(w.device) is not None


def linear(x: Tensor, w: Tensor, m: int, *, stacked: bool, sink: list[Outer] | None = None) -> Tensor:
    """Map (m·b, …, i) to (m·b, …, o) with w (m, o, i), or with a shared w (o, i).

    With a ``sink``, which a stacked w that is a leaf has, its gradient may be added there as a product.
    """
    if not stacked:
        return F.linear(x, w)
    if x.numel() // x.shape[-1] // m > largest_rank(*w.shape[1:]) or autocast_dtype(x.device) is not None:
        sink = None
    if m == 1 and sink is None:
        return F.linear(x, w[0])
    rows, w = rounded(x.reshape(m, -1, x.shape[-1]), w)
    y: Tensor = _Linear.apply(rows, w, sink)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], w.shape[1])


class _Linear(torch.autograd.Function):
    """y = x Wᵀ, with ∂W = gᵀx in the memory layout of W, or as the product itself in the sink.

    Autograd's ∂W is the transposed view of xᵀg. An optimizer that reads it, or the backward pass of the product that
    W was computed from, would access W by rows and ∂W by columns.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, sink: list[Outer] | None) -> Tensor:
        """Map x (m, n, i) with w (m, o, i) to (m, n, o)."""
        ctx.save_for_backward(x, w)
        ctx.sink = sink
        return torch.bmm(x, w.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of x and w."""
        (g,) = gradients
        x, w = ctx.saved_tensors
        dx = torch.bmm(g, w) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            product = Outer(g, x)
            if ctx.sink is None or torch.is_grad_enabled():  # the model differentiates the gradient
                dw = product.dense()
            else:
                ctx.sink.append(product)
        return dx, dw, None


def add_bias(y: Tensor, bias: Tensor | None, m: int, axis: int, *, stacked: bool) -> Tensor:
    """Add a bias (m, o), or a shared one (o,), along ``axis`` of y."""
    if bias is None:
        return y
    bias = bias.to(y.dtype)
    return y + broadcast(bias, y.ndim, axis) if not stacked else fold_op(torch.add, y, bias, m, axis)


def fold_op(op: Any, y: Tensor, p: Tensor, m: int, axis: int) -> Tensor:
    """Apply an elementwise ``op`` of y (m·b, …) and p (m, *shape), whose axes end at ``axis`` of y."""
    shape = [1] * y.ndim
    axis %= y.ndim
    shape[axis - p.ndim + 2 : axis + 1] = p.shape[1:]
    result: Tensor = op(y.unflatten(0, (m, -1)), p.view(m, *shape)).flatten(0, 1)
    return result


def broadcast(p: Tensor, ndim: int, axis: int) -> Tensor:
    """Return a vector p (o,) reshaped to broadcast along ``axis`` of an activation with ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return p.view(shape)


def conv(layer: nn.Conv2d, x: Tensor, w: Tensor, bias: Tensor | None, m: int, *, stacked: bool) -> Tensor:
    """Convolve (m·b, i, h, w) with w (m, o, i, k, k), and add the bias (m, o), or with a shared w and bias.

    On a CPU, a loop over clients is faster than one convolution with m groups; on a GPU, the loop would leave it idle.
    """
    if not stacked:
        return convolve(layer, x, w, bias)
    if x.is_cuda and layer.padding_mode == "zeros" and layer.groups == 1 and m > 1:
        return add_bias(_grouped(layer, x, w, m), bias, m, 1, stacked=True)
    biases = [None] * m if bias is None else bias.unbind(0)
    parts = zip(x.split(x.shape[0] // m), w.unbind(0), biases, strict=True)  # a view might change the strides
    return torch.cat([convolve(layer, *part) for part in parts])


def convolve(layer: nn.Conv2d, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with ``w``, with the stride, padding and dilation of ``layer``."""
    y: Tensor = layer._conv_forward(x, w, bias)
    return y


def _grouped(layer: nn.Conv2d, x: Tensor, w: Tensor, m: int) -> Tensor:
    """Convolve with clients as groups: (m·b, i, …) is viewed as (b, m·i, …)."""
    wide = x.unflatten(0, (m, -1)).transpose(0, 1).flatten(1, 2)
    y = F.conv2d(wide, w.flatten(0, 1), None, layer.stride, layer.padding, layer.dilation, groups=m)
    folded: Tensor = y.unflatten(1, (m, -1)).transpose(0, 1).flatten(0, 1)
    return folded


def add_pointwise(y: Tensor, h: Tensor, b: Tensor, m: int, s: float, *, stacked: bool) -> Tensor:
    """Return y + s·b∗h, for y (m·b, o, h, w), h (m·b, r, h, w) and 1×1 convolutions b (m, o, r, 1, 1), or a shared b.

    With the channels last in memory, the sum is one product over all pixels of each client.
    """
    if stacked and y.dtype == h.dtype and y.is_contiguous(memory_format=torch.channels_last):
        rows, hidden = (t.permute(0, 2, 3, 1).reshape(m, -1, t.shape[1]) for t in (y, h))
        total = torch.baddbmm(rows, hidden, b.flatten(2).mT, alpha=s)
        return total.view(y.shape[0], *y.shape[2:], y.shape[1]).permute(0, 3, 1, 2)
    if stacked:
        pixels = h.flatten(2).unflatten(0, (m, -1))
        up = torch.matmul(b.flatten(2).unsqueeze(1), pixels).flatten(0, 1).view(y.shape)
    else:
        up = F.conv2d(h, b)
    return torch.add(y, up.to(y.dtype), alpha=s)


def lowrank_linear(x: Tensor, w: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, s: float) -> Tensor:
    """Return x Wᵀ + s·(x Aᵀ)Bᵀ + bias for m clients, (m, n, i) to (m, n, o), without a gradient for the shared W.

    W is (o, i), A (m, r, i), B (m, o, r) and the bias (m, o). The product with W is one over all rows, the others are
    batched over clients.
    """
    x, w, a, b = rounded(x, w, a, b)
    bias = None if bias is None else bias.to(w.dtype)
    y: Tensor = _LowRankLinear.apply(x, w, a, b, bias, s)  # type: ignore[no-untyped-call]
    return y


class _LowRankLinear(torch.autograd.Function):
    """Saves h = x Aᵀ. With g = ∂L/∂y and u = s·gB: ∂B = s·gᵀh, ∂A = uᵀx, ∂x = gW + uA."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, s: float) -> Tensor:
        """Compute y, and save h for the backward pass."""
        m, n, i = x.shape
        h = torch.bmm(x, a.mT)
        y = torch.mm(x.reshape(m * n, i), w.T).view(m, n, -1)
        y.baddbmm_(h, b.mT, alpha=s)
        if bias is not None:
            y.add_(bias.unsqueeze(1))
        ctx.save_for_backward(x, w, a, b, h)
        ctx.s, ctx.has_bias = s, bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, a, b and bias."""
        (g,) = gradients
        x, w, a, b, h = ctx.saved_tensors
        u = torch.bmm(g, b).mul_(ctx.s)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.mm(g.reshape(-1, g.shape[-1]), w).view(x.shape)
            dx.baddbmm_(u, a)
        da = torch.bmm(u.mT, x) if ctx.needs_input_grad[2] else None
        db = torch.bmm(g.mT, h).mul_(ctx.s) if ctx.needs_input_grad[3] else None
        return dx, None, da, db, g.sum(1) if ctx.has_bias else None, None

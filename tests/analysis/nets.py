"""Small nets in float64, and their dense curvature by reverse-mode derivatives only."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian

from fedloru import net as nets
from fedloru import tree
from fedloru.analysis.objective import Objective, objective
from fedloru.data import Examples
from fedloru.net import by_labels
from tests.laws.cases import Transformer

CLASSES = 4


def mlp(activation: type[nn.Module] = nn.Tanh, hidden: int = 9) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), activation(), nn.Linear(hidden, CLASSES))


def conv(*between: nn.Module) -> nn.Module:
    first = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(first, *between, nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES))


def trained_norm() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(torch.linspace(-0.3, 0.3, 4))
    norm.running_var.copy_(torch.linspace(0.5, 2.0, 4))
    return conv(norm)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp, tanh": mlp,
    "mlp, relu": lambda: mlp(nn.ReLU),
    "mlp, silu": lambda: mlp(nn.SiLU),
    "conv": conv,
    "conv, group norm": lambda: conv(nn.GroupNorm(2, 4)),
    "conv, instance norm": lambda: conv(nn.InstanceNorm2d(4, affine=True)),
    "conv, batch norm": trained_norm,
    "conv, layer norm": lambda: conv(nn.LayerNorm([4, 4, 4])),
    "attention": lambda: nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), Mean()),
    "transformer": Transformer,
}


class Mean(nn.Module):
    """The mean over positions, which gives one logit per entry."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def data(n: int = 13, seed: int = 1) -> Examples:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=g, dtype=torch.float64)
    return {"x": x, "y": torch.randint(0, CLASSES, (n,), generator=g)}


def tokens(n: int = 13) -> Examples:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 11, (n, 5), generator=g)
    x[:, 0] = 1
    return {"x": x, "y": torch.randint(0, CLASSES, (n,), generator=g)}


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


def small(name: str, batch_size: int = 5) -> Objective:
    """Return the loss of one of MODELS, over three batches of unequal size."""
    net = nets.make(build(MODELS[name]))
    examples = tokens() if name == "transformer" else data()
    return objective(net, net.params | net.buffers, examples, batch_size=batch_size)


def flat(params: tree.Params) -> Tensor:
    return torch.cat([p.flatten() for p in params.values()])


def outputs(o: Objective, theta: Tensor) -> Tensor:
    """Return the model's outputs for all examples, with flat parameters ``theta``."""
    parts = theta.split([p.numel() for p in o.params.values()])
    params = {key: part.view_as(p) for (key, p), part in zip(o.params.items(), parts, strict=True)}
    named = o.inputs(o.data)
    return torch.func.functional_call(o.model, o.frozen | params, (named[""],))


def dense_hessian(o: Objective) -> Tensor:
    """Return ∂²L/∂θ², (n, n)."""

    def loss(theta: Tensor) -> Tensor:
        return o.losses(outputs(o, theta), o.data).mean()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return hessian(loss, flat(o.params))


def dense_ggn(o: Objective) -> Tensor:
    """Return (1/n) Σ Jᵀ(diag p - ppᵀ)J, (n, n), for cross-entropy."""
    assert o.losses is by_labels and not o.data["y"].is_floating_point()
    theta = flat(o.params)
    jacobians = jacobian(lambda t: outputs(o, t), theta)
    p = F.softmax(outputs(o, theta), -1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("bci,bcd,bdj->ij", jacobians, inner, jacobians) / o.examples

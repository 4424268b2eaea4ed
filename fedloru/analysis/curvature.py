"""Matrix-vector products with the Hessian and the generalized Gauss-Newton matrix of a loss, by curvlinops.

With outputs f_i = f(θ, x_i) and their Jacobians J_i, the Hessian of the mean loss is

    H = (1/n) Σ J_iᵀ (∂²ℓ/∂f²) J_i  +  (1/n) Σ Σ_c (∂ℓ/∂f_ic) ∂²f_ic/∂θ²  =  G + R

where G is the generalized Gauss-Newton matrix (GGN; Schraudolph, Neural Computation 2002). It is positive semidefinite
for convex ℓ, and for cross-entropy its rank is at most n·(classes - 1). If the outputs are piecewise linear in the
parameters, as in the parameters of a single layer of a ReLU net, R vanishes and H = G.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.functional import vhp

from fedloru import net as nets
from fedloru.analysis.lanczos import Symmetric, draw
from fedloru.analysis.objective import Objective, double, first, losses
from fedloru.analysis.smooth import differentiable
from fedloru.errors import MissingExtraError, ModelError
from fedloru.net import Batch

try:
    from curvlinops import GGNLinearOperator, HessianLinearOperator
except ImportError as error:
    raise MissingExtraError("curvlinops", "analysis", "curvature analysis") from error

Kind = Literal["hessian", "ggn"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHECK_EXAMPLES, CHECK_TOLERANCE = 8, 1e-3
"""The number of examples for checking the Hessian-vector product, and the allowed relative error."""

OPERATORS = {"hessian": HessianLinearOperator, "ggn": GGNLinearOperator}


class _Outputs(nn.Module):
    """Maps row indices (b,) of the examples to the model's outputs; the operator's data are row indices only."""

    def __init__(self, o: Objective) -> None:
        super().__init__()
        self.model, self.o = o.model, o

    def forward(self, rows: Tensor) -> Any:
        with differentiable():
            return nets.forward(self.o.net, {}, _batch(self.o, rows))  # the module already holds the parameters


class _MeanLoss(nn.Module):
    """Maps outputs, and the row indices (b,) of their examples, to the mean loss."""

    reduction = "mean"

    def __init__(self, o: Objective) -> None:
        super().__init__()
        self.o = o

    def forward(self, outputs: Any, rows: Tensor) -> Tensor:
        return self.o.losses(outputs, _batch(self.o, rows)).mean()


def curvature(o: Objective, kind: Kind) -> Symmetric:
    """Return the Hessian or the GGN of ``o`` over its parameters, flattened in their order.

    A product takes a few passes over all examples, in mini-batches of fixed order. Products are deterministic.

    Raises:
        ModelError: the model cannot be differentiated twice, or a result is not finite; also raised by products.
    """
    if kind == "hessian":
        _check_product(double(first(o, CHECK_EXAMPLES)))  # float32 rounding can exceed a well-trained model's curvature
    return _matrix(o, kind)


def _matrix(o: Objective, kind: Kind) -> Symmetric:
    model, sample = _Outputs(o), next(iter(o.params.values()))
    by_name = dict(model.named_parameters())
    rows = torch.arange(o.examples, device=sample.device).split(o.batch_size)
    operator = OPERATORS[kind](
        model,
        _MeanLoss(o),
        [by_name[f"model.{name}"] for name in o.params],
        [(r, r) for r in rows],
        check_deterministic=False,
    )

    def product(v: Tensor) -> Tensor:
        result = _differentiate(lambda: operator @ v, kind)
        if not bool(result.isfinite().all()):
            raise ModelError(
                f"the product of the {kind} with a vector is not finite: the model has diverged, or it evaluates a "
                "function where it has no second derivative, such as the square root at 0"
            )
        return result

    return Symmetric(product, operator.shape[0], sample.dtype, sample.device)


def _check_product(o: Objective) -> None:
    """Raise if the Hessian-vector product differs from the one computed with two backward passes."""
    matrix = _matrix(o, "hessian")
    v = draw(matrix, 0, "rank", "check")
    sizes = [p.numel() for p in o.params.values()]
    parts = tuple(part.view_as(p) for part, p in zip(v.split(sizes), o.params.values(), strict=True))

    def mean_loss(*params: Tensor) -> Tensor:
        return losses(o, dict(zip(o.params, params, strict=True)), o.data).mean()

    def twice_backward() -> Tensor:
        return torch.cat([part.flatten() for part in vhp(mean_loss, tuple(o.params.values()), parts)[1]])

    actual, expected = matrix.product(v), _differentiate(twice_backward, "hessian")
    error, norm = float((actual - expected).norm()), float(expected.norm())
    if not error <= CHECK_TOLERANCE * norm:
        raise ModelError(
            f"a Hessian-vector product has norm {norm:.4g} by two backward passes, but forward-over-backward "
            f"differentiation is off by {error:.2g}: torch has a wrong derivative for a function in this model. Use "
            "the ggn, or rewrite that function with elementary operations"
        )


def _batch(o: Objective, rows: Tensor) -> Batch:
    return {key: value[rows] for key, value in o.data.items()}


def _differentiate(compute: Callable[[], Tensor], kind: Kind) -> Tensor:
    try:
        return compute()
    except torch.OutOfMemoryError as error:
        raise ModelError(f"out of memory while computing the {kind}: use a smaller batch size") from error
    except Exception as error:  # a custom model may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"the {kind} of this model cannot be computed: {reason}") from error

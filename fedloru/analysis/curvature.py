"""The Hessian of a loss and its generalised Gauss-Newton matrix, as products with vectors (by curvlinops).

With outputs f_i = f(θ, x_i) and their Jacobians J_i, the Hessian of the mean loss is

    H = (1/n) Σ J_iᵀ (∂²ℓ/∂f²) J_i  +  (1/n) Σ Σ_c (∂ℓ/∂f_ic) ∂²f_ic/∂θ²  =  G + R

and G is the generalised Gauss-Newton matrix (GGN; Schraudolph, Neural Computation 2002): positive semidefinite for a
convex ℓ, and of rank n·(classes - 1) at most for cross-entropy. Where the outputs are piecewise linear in the
parameters, as in those of one layer of a net with ReLU alone, R vanishes and H = G.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.functional import vhp

from fedloru import net as nets
from fedloru.analysis.lanczos import Symmetric, draw
from fedloru.analysis.objective import Objective, first, losses
from fedloru.analysis.smooth import differentiable
from fedloru.errors import MissingExtraError, ModelError
from fedloru.net import Batch

try:
    from curvlinops import GGNLinearOperator, HessianLinearOperator
except ImportError as error:
    raise MissingExtraError("curvlinops", "analysis", "the study of curvature") from error

Kind = Literal["hessian", "ggn"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FEW, AGREE = 8, 1e-3
"""The check takes so many examples, and this share of the product for rounding in float32."""

OPERATORS = {"hessian": HessianLinearOperator, "ggn": GGNLinearOperator}


class _Outputs(nn.Module):
    """Maps rows (b,) of the examples to the model's outputs: an operator's data are row numbers alone."""

    def __init__(self, o: Objective) -> None:
        super().__init__()
        self.model, self.o = o.model, o

    def forward(self, rows: Tensor) -> Any:
        with differentiable():
            return nets.forward(self.o.net, {}, _batch(self.o, rows))  # the parameters are in the module already


class _MeanLoss(nn.Module):
    """Maps outputs and the rows (b,) that they are of to the mean loss."""

    reduction = "mean"

    def __init__(self, o: Objective) -> None:
        super().__init__()
        self.o = o

    def forward(self, outputs: Any, rows: Tensor) -> Tensor:
        return self.o.losses(outputs, _batch(self.o, rows)).mean()


def curvature(o: Objective, kind: Kind) -> Symmetric:
    """Return the Hessian or the GGN of ``o`` over its parameters, flat in their order.

    A product costs a few passes over all examples: mini-batches in a fixed order, without randomness.

    Raises:
        ModelError: here or in a product: the model cannot be differentiated twice, or the result is not finite.
    """
    if kind == "hessian":
        _check(first(o, FEW))
    return _matrix(o, kind)


def _matrix(o: Objective, kind: Kind) -> Symmetric:
    model, sample = _Outputs(o), next(iter(o.params.values()))
    own = dict(model.named_parameters())
    rows = torch.arange(o.examples, device=sample.device).split(o.batch_size)
    operator = OPERATORS[kind](
        model,
        _MeanLoss(o),
        [own[f"model.{name}"] for name in o.params],
        [(r, r) for r in rows],
        check_deterministic=False,
    )

    def product(v: Tensor) -> Tensor:
        result = _tried(lambda: operator @ v, kind)
        if not bool(result.isfinite().all()):
            raise ModelError(
                f"the {kind} times a vector is not finite: the model has diverged, or a function in it has no "
                "second derivative where it is used, such as a square root of 0"
            )
        return result

    return Symmetric(product, operator.shape[0], sample.dtype, sample.device)


def _check(o: Objective) -> None:
    """Refuse a model whose Hessian, times a vector, is another one when both derivatives are taken backward."""
    matrix = _matrix(o, "hessian")
    v = draw(matrix, 0, "rank", "check")
    sizes = [p.numel() for p in o.params.values()]
    parts = tuple(part.view_as(p) for part, p in zip(v.split(sizes), o.params.values(), strict=True))

    def mean_loss(*params: Tensor) -> Tensor:
        return losses(o, dict(zip(o.params, params, strict=True)), o.data).mean()

    def twice_backward() -> Tensor:
        return torch.cat([part.flatten() for part in vhp(mean_loss, tuple(o.params.values()), parts)[1]])

    found, wanted = matrix.product(v), _tried(twice_backward, "hessian")
    error, norm = float((found - wanted).norm()), float(wanted.norm())
    if not error <= AGREE * norm:
        raise ModelError(
            f"the hessian times a vector has norm {norm:.4g} by two backward passes, and is off by {error:.2g} where "
            "one is forward: torch has a wrong derivative for a function of this model. Study the ggn, or write that "
            "function in elementary ones"
        )


def _batch(o: Objective, rows: Tensor) -> Batch:
    return {key: value[rows] for key, value in o.data.items()}


def _tried(differentiate: Callable[[], Tensor], kind: Kind) -> Tensor:
    try:
        return differentiate()
    except torch.OutOfMemoryError as error:
        raise ModelError(f"the {kind} does not fit into memory: lower the batch size") from error
    except Exception as error:  # the user's own model may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"the {kind} of this model cannot be formed: {reason}") from error

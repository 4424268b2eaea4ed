"""Models of transformers as nets: what they read, what they are trained on, and what is trained of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial

from torch import nn

from fedloru import lowrank
from fedloru import net as nets
from fedloru.hf import losses
from fedloru.hf.models import is_classifier
from fedloru.hf.targets import usual_targets
from fedloru.net import Net


def attach(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    dropout: float = 0.0,
    dense: Sequence[str] = ("*",),
) -> Net:
    """Attach factors to a copy of a model that ``load`` or ``prepare`` made; the frozen weights are not copied.

    ``targets`` are globs of layers (None: ``usual_targets``). Beside the factors, what is not frozen and matches
    ``dense`` is trained: the head, where it is fresh.

    Raises:
        ModelError: no layer matches, a rank does not fit, or the model is neither a causal one nor a classifier.
    """
    chosen = usual_targets(model) if targets is None else targets
    attached = lowrank.attach(
        model, rank=rank, alpha=alpha, targets=chosen, ranks=ranks, alphas=alphas, dropout=dropout
    )
    return _read(nets.make(attached.model, dense=dense, skipped=attached.skipped))


def make(model: nn.Module) -> Net:
    """Take a copy of a model that ``load`` or ``prepare`` made as it is, to train every weight of it.

    Raises:
        ModelError: the model is neither a causal one nor a classifier.
    """
    return _read(nets.make(copy.deepcopy(model).requires_grad_()))


def _read(net: Net) -> Net:
    classifier = is_classifier(net.model)
    config = net.model.config.get_text_config()  # type: ignore[union-attr, operator]
    return net._replace(
        losses=losses.class_losses if classifier else losses.token_losses,
        score=losses.class_score if classifier else losses.token_score,
        inputs=partial(losses.inputs, pad=config.pad_token_id or 0),
        unit="example" if classifier else "token",
        local_base=True,
    )

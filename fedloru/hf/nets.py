"""Make nets of transformers models: their inputs, losses, metrics and trainable parameters."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import partial

from torch import nn

from fedloru import lowrank
from fedloru import net as nets
from fedloru.errors import ModelError
from fedloru.hf import losses
from fedloru.hf.adapter import adapter_problem
from fedloru.hf.export import merged_problem
from fedloru.hf.parts import is_classifier
from fedloru.hf.targets import Targets, default_targets
from fedloru.net import Net

log = logging.getLogger("fedloru")


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
    """Attach factors to a copy of a model from ``load`` or ``prepare``; the copy shares the frozen weights.

    ``targets`` are globs of layer names (default: ``usual_targets``). In addition to the factors, parameters that are
    not frozen and match ``dense`` are trained, such as a fresh head. A warning says so if the trained model could not
    be exported.

    Raises:
        ModelError: no layer matches, a rank is too high, or the model is neither causal nor a classifier.
    """
    is_classifier(model)  # raises before anything is attached
    chosen = default_targets(model) if targets is None else Targets([*targets], {})
    if not chosen.globs:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in chosen.left_out.items())
        raise ModelError(
            f"the {type(model).__name__} has no linear layer that gets factors by default"
            f"{f' ({reasons})' if reasons else ''}: set lowrank.targets, or use a method without factors"
        )
    attached = lowrank.attach(
        model, rank=rank, alpha=alpha, targets=chosen.globs, ranks=ranks, alphas=alphas, dropout=dropout
    )
    net = _text_net(nets.make(attached.model, dense=dense, skipped=chosen.left_out | attached.skipped))
    if problem := adapter_problem(net):
        log.warning("the trained model cannot be exported as an adapter: %s", problem)
    _warn_of_merged(net)
    return net


def make(model: nn.Module) -> Net:
    """Return a net that trains every weight of a copy of a model from ``load`` or ``prepare``.

    Raises:
        ModelError: the model is neither causal nor a classifier.
    """
    is_classifier(model)
    net = _text_net(nets.make(copy.deepcopy(model).requires_grad_()))
    _warn_of_merged(net)
    return net


def _warn_of_merged(net: Net) -> None:
    if problem := merged_problem(net):
        log.warning("the trained model cannot be exported as a merged model: %s", problem)


def _text_net(net: Net) -> Net:
    classifier = is_classifier(net.model)
    config = net.model.config.get_text_config()  # type: ignore[union-attr, operator]
    return net._replace(
        losses=losses.class_losses if classifier else losses.token_losses,
        score=losses.class_score if classifier else losses.token_score,
        inputs=partial(losses.inputs, pad=getattr(config, "pad_token_id", None) or 0),
        unit="example" if classifier else "token",
        local_base=True,
    )

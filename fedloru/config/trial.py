"""A trial of a model on a few examples before a run writes anything: errors of a round are raised early."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedloru import net as nets
from fedloru import own_optimizer, tree
from fedloru.client import local_batch, local_schedule
from fedloru.data import Dataset, Examples, Partition, batches_per_epoch, by_length, size
from fedloru.errors import ConfigError, FedloruError, ModelError, counted, traced
from fedloru.evaluate import evaluate
from fedloru.metrics import Metric
from fedloru.net import Net
from fedloru.net.loss import OF_CLASSES, OF_LABELS, by_labels
from fedloru.net.loss import name_of as loss_name
from fedloru.recipe import Precision, Recipe
from fedloru.rng import forked
from fedloru.session import Job

LOSSES_OF_SCORES = OF_CLASSES | {by_labels}
FIX = "Fix it, or choose another model"

SCORED = 200
"""The maximum number of test examples on which metrics are tried out."""

log = logging.getLogger("fedloru")


def try_out(
    net: Net, dataset: Dataset, partition: Partition, recipe: Recipe, metrics: Mapping[str, Metric] | None = None
) -> None:
    """Evaluate the model on one example, and train it on two, and on one if a client ends an epoch with one.

    The model is not changed. A language model is evaluated on the longest text, and trained on texts of a client. An
    optimizer of yours takes two steps, and the ``metrics`` score the model on some test examples.

    Raises:
        ModelError: the model fails, its outputs or losses have the wrong shape, or it cannot learn.
        ConfigError: a metric raises an exception.
        DataError: the examples cannot be augmented as configured.
    """
    own_optimizer.try_out(recipe)
    sizes = partition.train.sizes
    largest = partition.train[int(sizes.argmax())]
    first = by_length(dataset.train)[:1] if "length" in dataset.train else largest[:1]
    _evaluate(net, dataset, _batch(dataset, first, recipe))
    if min(recipe.batch_size, len(largest)) > 1:
        _train(net, dataset, _batch(dataset, largest[:2], recipe), recipe.precision, "")
    alone = [size for size in sizes.unique().tolist() if _ends_with_one(size, recipe)]
    if alone:
        client = int(torch.isin(sizes, torch.tensor(alone)).nonzero()[0])
        rows = partition.train[client]
        whose = f", with which client {client} ends an epoch of its {len(rows)}"
        _train(net, dataset, _batch(dataset, rows[:1], recipe), recipe.precision, whose, nets.SINGLE)
    if metrics and size(dataset.test):
        _try_metrics(net, dataset, metrics)


def _try_metrics(net: Net, dataset: Dataset, metrics: Mapping[str, Metric]) -> None:
    """Score evenly spaced test examples."""
    examples = size(dataset.test)
    rows = torch.arange(0, examples, -(-examples // SCORED))
    found = evaluate(net, _copies(net), dataset.test, rows=rows, metrics=metrics)
    if failed := [f"{name}: {why.reason}; fix it" for name, why in found.missing.items() if why.raised]:
        raise ConfigError(failed, f"eval.metrics, tried out on {len(rows)} test examples")


def _batch(dataset: Dataset, rows: Tensor, recipe: Recipe) -> Examples:
    plan = local_schedule(Job(0, rows), recipe._replace(batch_size=len(rows), steps=1), 0, 1)
    return local_batch(dataset.train, plan, 0, recipe)


def _ends_with_one(examples: int, recipe: Recipe) -> bool:
    """Return whether a client with this number of examples takes a local step on a single one."""
    if recipe.drop_last:
        return min(examples, recipe.batch_size) == 1
    batches = batches_per_epoch(examples, recipe.batch_size, False)
    single = examples - (batches - 1) * recipe.batch_size == 1
    return single and (recipe.steps is None or recipe.steps >= batches)


def _evaluate(net: Net, dataset: Dataset, batch: Examples) -> None:
    name, first = next(iter(batch.items()))
    subject = f"an example of {dataset.name!r}, {name} of shape {tuple(first.shape)}"
    try:
        with torch.no_grad(), nets.mode(net, False), forked(first.device):
            outputs = nets.forward(net, _copies(net), batch)
    except Exception as error:  # user code may raise anything
        reason = _reason(error, _advice(name, first))
        raise ModelError(f"the model cannot be evaluated on {subject}: {reason}") from error
    wanted = (1, nets.outputs_for(loss_name(net.losses), batch.get("y"), len(dataset.classes)))
    if net.score is None and net.losses in OF_LABELS and getattr(outputs, "shape", None) not in _shapes(*wanted):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        what = "score per class" if dataset.classes and wanted[1] > 1 else "output per target"
        raise ModelError(f"the model returns {got} for {subject}, expected one {what}, {wanted}")
    if dataset.classes and net.losses in LOSSES_OF_SCORES and _are_probabilities(outputs):
        log.warning(
            "the model returns probabilities, with which it learns slowly: the cross-entropy expects scores, so remove "
            "the softmax"
        )


def _advice(name: str, example: Tensor) -> str:
    if example.is_floating_point():
        return "Choose another model, or other settings"
    return (
        f"The model gets {name} as {example.dtype}, as if it had indices of tokens: if it has numbers, convert it with "
        f"{name}.astype('float32') or {name}.float(), or standardize it"
    )


def _are_probabilities(outputs: Any) -> bool:
    """Return whether ``outputs`` (1, classes) are positive and sum to 1."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    return bool((outputs >= 0).all() and (outputs.sum(1) - 1).abs().max() < 1e-4)


def _shapes(examples: int, outputs: int) -> list[tuple[int, ...]]:
    """Return the shapes that the outputs of a model may have; a single output needs no axis."""
    return [(examples, outputs), *([(examples,)] if outputs == 1 else [])]


def _train(net: Net, dataset: Dataset, batch: Examples, precision: Precision, whose: str, hint: str = FIX) -> None:
    subject = f"{counted(size(batch), 'example')} of {dataset.name!r}{whose}"
    tensors = _copies(net)
    leaves = {key: tensors[key].requires_grad_() for key in sorted(net.trainable)}
    try:
        with nets.mode(net, True), forked(next(iter(batch.values())).device), nets.use_tensors(net, tensors):
            with nets.autocast(precision, next(iter(batch.values())).device):
                each = nets.compute_losses(net, batch)
            if each.requires_grad:
                each.mean().backward()
    except Exception as error:  # user code may raise anything
        reason = _reason(error, hint if precision == "full" else f"{hint}; or set client.precision to 'full'")
        raise ModelError(f"the model cannot be trained on {subject}: {reason}") from error
    if not bool(each.isfinite().all()):
        raise ModelError(f"the untrained model has losses of {each.tolist()} on {subject}: fix the model or the data")
    _check_gradients({key: leaf.grad for key, leaf in leaves.items()})


def _check_gradients(gradients: dict[str, Tensor | None]) -> None:
    without = [key for key, gradient in gradients.items() if gradient is None]
    if len(without) == len(gradients):
        raise ModelError(
            f"no gradient reaches the trained tensors ({', '.join(without)}): the forward pass detaches them, runs "
            "under no_grad, or is checkpointed with use_reentrant=True from its first layer on. Fix the model"
        )
    if without:
        log.warning("no gradient reaches %s, so they are not trained", ", ".join(without))


def _copies(net: Net) -> tree.Params:
    trained = tree.clone(tree.select(net.params, net.trainable))
    return nets.constants(net, nets.unshared(net, net.params | net.buffers | trained))


def _reason(error: Exception, hint: str) -> str:
    return str(error) if isinstance(error, FedloruError) else f"{traced(error)}. {hint}"

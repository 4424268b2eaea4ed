"""Check every export: the exported model, loaded from disk, must score a few examples like the trained model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru import hf, tree
from fedloru import net as nets
from fedloru.data import Examples, fetch, size
from fedloru.errors import ModelError
from fedloru.exports.formats import Written
from fedloru.net import Batch, Net
from fedloru.tree import Params

EXAMPLES, RANDOM_TOKENS = 8, 16
"""The number of examples to score; without test data, texts of ``RANDOM_TOKENS`` random tokens are scored instead."""
TOLERANCE = 1e-4
"""The allowed difference, relative to the largest score, or to 1 if all are smaller: more than rounding causes."""


class Check(NamedTuple):
    """The result of a comparison of scores.

    ``difference`` is the largest difference to the scores of ``against``: the trained model, or, if its dtype is below
    float32 or the adapter was truncated, the weights that the export represents. ``training`` is the largest difference
    to the trained model, ``largest`` the largest absolute score. ``drawn`` is True if the examples were random tokens.
    """

    difference: float
    largest: float
    examples: int
    drawn: bool
    against: str
    training: float

    @property
    def tolerance(self) -> float:
        """The largest difference that is accepted."""
        return TOLERANCE * max(1.0, self.largest)


def check(net: Net, written: Written, trained: Params, data: Examples) -> Check:
    """Compare the scores of the exported model with the expected ones.

    Raises:
        ModelError: they differ.
    """
    batch = fetch(data, torch.arange(min(EXAMPLES, size(data)))) if data else _random_batch(net)
    scored = scores(net._replace(model=wide(written.model)), {}, batch)
    expected = scores(net, tree.map(_wide, written.tensors), batch)
    largest = float(expected.abs().max())
    training = float((scored - scores(net, trained, batch)).abs().max())
    result = Check(float((scored - expected).abs().max()), largest, len(expected), not data, written.against, training)
    if not result.difference <= result.tolerance:  # also fails for NaN
        raise ModelError(
            f"the exported model does not score {result.examples} examples like {result.against}: scores of at most "
            f"{largest:.4g} differ by {result.difference:.3g}, but at most {result.tolerance:.3g} is allowed. Nothing "
            "was written. This is a bug in the export, or the files of the model were changed"
        )
    return result


@torch.no_grad()
def scores(net: Net, tensors: Params, batch: Batch) -> Tensor:
    """Return the outputs of the model with ``tensors`` in float64; for texts, outputs at padding are set to 0."""
    with nets.mode(net, False):
        out: Any = nets.forward(net, nets.unshared(net, tensors), batch)
    logits: Tensor = getattr(out, "logits", out).double()
    if logits.ndim == 3 and "length" in batch:
        is_token = torch.arange(logits.shape[1]) < batch["length"][:, None]
        logits = logits.masked_fill(~is_token[:, :, None], 0.0)
    return logits


def wide(model: Any) -> Any:
    """Return ``model`` in float32, or unchanged if it is already at least that wide."""
    return model.float() if next(model.parameters()).dtype.itemsize < 4 else model


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value


def _random_batch(net: Net) -> Batch:
    ids = hf.draw_ids(net.model, EXAMPLES, RANDOM_TOKENS, "export")
    return {"input_ids": ids, "length": torch.full((EXAMPLES,), RANDOM_TOKENS)}

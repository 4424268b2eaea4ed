"""Every export is checked: what was written, loaded again from the disk, is to score a few examples as the run does."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru import net as nets
from fedloru import tree
from fedloru.data import Examples, fetch, size
from fedloru.errors import ModelError
from fedloru.exports.formats import Written
from fedloru.net import Batch, Net
from fedloru.rng import gen
from fedloru.tree import Params

EXAMPLES, DRAWN = 8, 16
"""So many examples are scored; where there are none, texts of so many random tokens."""
TOLERANCE = 1e-4
"""By so much of the largest score (of 1, if that is smaller), scores may differ: more than sums in another order do."""


class Check(NamedTuple):
    """The largest difference between scores, and the largest score; ``training`` is that to the training model.

    ``against`` says what the export is compared with: the training model, or where its type is too narrow or its rank
    was cut, what it is then to compute.
    """

    difference: float
    largest: float
    examples: int
    drawn: bool
    against: str
    training: float

    @property
    def tolerance(self) -> float:
        """The largest difference that is let pass."""
        return TOLERANCE * max(1.0, self.largest)


def check(net: Net, written: Written, trained: Params, data: Examples) -> Check:
    """Compare the scores of what was ``written`` with what they should be.

    Raises:
        ModelError: they differ.
    """
    batch = fetch(data, torch.arange(min(EXAMPLES, size(data)))) if data else _drawn(net)
    got = scores(net._replace(model=wide(written.model)), {}, batch)
    expected = scores(net, tree.map(_wide, written.tensors), batch)
    largest = float(expected.abs().max())
    training = float((got - scores(net, trained, batch)).abs().max())
    made = Check(float((got - expected).abs().max()), largest, len(expected), not data, written.against, training)
    if not made.difference <= made.tolerance:  # NaN is no match either
        raise ModelError(
            f"what was written scores {made.examples} examples otherwise than {made.against}: scores of up to "
            f"{largest:.4g} differ by {made.difference:.3g}, and by {made.tolerance:.3g} they may. Nothing is left "
            "behind; this is a fault of the export, or the files of the model were changed"
        )
    return made


@torch.no_grad()
def scores(net: Net, tensors: Params, batch: Batch) -> Tensor:
    """Return what the model puts out with ``tensors``, in float64; for texts, where there are tokens."""
    with nets.mode(net, False):
        out: Any = nets.forward(net, nets.unshared(net, tensors), batch)
    found: Tensor = getattr(out, "logits", out).double()
    if found.ndim == 3 and "length" in batch:
        real = torch.arange(found.shape[1]) < batch["length"][:, None]
        found = found.masked_fill(~real[:, :, None], 0.0)
    return found


def wide(model: Any) -> Any:
    """Return ``model`` in float32, or in float64 if it is already."""
    return model.float() if next(model.parameters()).dtype.itemsize < 4 else model


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value


def _drawn(net: Net) -> Batch:
    config: Any = net.model.config
    words = config.get_text_config().vocab_size
    ids = torch.randint(words, (EXAMPLES, DRAWN), generator=gen(0, "export"))
    return {"input_ids": ids, "length": torch.full((EXAMPLES,), DRAWN)}

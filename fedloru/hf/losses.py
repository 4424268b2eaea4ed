"""What goes into a model of transformers, and what its scores cost.

Texts come padded on the right: ``input_ids`` (b, T), ``length`` (b,) tokens each. A causal model is trained on
``labels`` (b, T), where −100 marks a token that costs nothing, such as one of the prompt; the scores at position t−1
are for the label at t. A text costs the mean over its labels, so that neither padding nor the other texts of its
batch change it. A classifier is trained on ``y`` (b,).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedloru.hf.blocks import IGNORED
from fedloru.net import Batch, Metrics, classification_metrics


def inputs(batch: Batch, pad: int = 0) -> dict[str, Tensor]:
    """Hand the tokens to the model, with ``pad`` after the end of each text, and the mask of those before it."""
    ids = batch["input_ids"]
    real = torch.arange(ids.shape[1], device=ids.device) < batch["length"][:, None]
    return {"input_ids": ids.masked_fill(~real, pad), "attention_mask": real.long()}


def token_losses(outputs: Any, batch: Batch) -> Tensor:
    """Return the mean cross-entropy in nats of the labelled tokens of each text, (b,); 0 where it has none."""
    labels = _next(batch)
    each = F.cross_entropy(_wide(outputs).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return each.view(labels.shape).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def token_score(outputs: Any, batch: Batch) -> Metrics:
    """Count labelled tokens: their cross-entropy in nats, those predicted rightly, and how many there are."""
    labels, scores = _next(batch), _wide(outputs)
    loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return Metrics(loss, (scores.argmax(-1) == labels).sum(), (labels != IGNORED).sum())


def class_losses(outputs: Any, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats, (b,), of the scores of each text."""
    return F.cross_entropy(_wide(outputs), batch["y"], reduction="none")


def class_score(outputs: Any, batch: Batch) -> Metrics:
    """Count texts: their cross-entropy in nats, those classified rightly, and how many there are."""
    return classification_metrics(class_losses(outputs, batch), outputs.logits, batch["y"])


def _next(batch: Batch) -> Tensor:
    """Return the label that is predicted at each position, (b, T): that of the position after it."""
    return F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


def _wide(outputs: Any) -> Tensor:
    scores: Tensor = outputs.logits
    return scores.to(torch.promote_types(scores.dtype, torch.float32))

"""Inputs, losses and metrics of transformers models.

Texts are padded on the right: ``input_ids`` (b, T), with ``length`` (b,) tokens each. A causal model is trained on
``labels`` (b, T), where −100 marks a token without a loss, such as a token of the prompt; the logits at position t−1
predict the label at t. The loss of a text is the mean over its own labeled tokens, so it depends neither on padding
nor on the other texts of the batch. A classifier is trained on ``y`` (b,).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedloru.hf.blocks import IGNORED
from fedloru.net import Batch, Metrics, classification_metrics


def inputs(batch: Batch, pad: int = 0) -> dict[str, Tensor]:
    """Return the inputs of the model: the tokens, with ``pad`` after the end of each text, and the attention mask."""
    ids = batch["input_ids"]
    is_token = torch.arange(ids.shape[1], device=ids.device) < batch["length"][:, None]
    return {"input_ids": ids.masked_fill(~is_token, pad), "attention_mask": is_token.long()}


def token_losses(outputs: Any, batch: Batch) -> Tensor:
    """Return the mean cross-entropy in nats of the labeled tokens of each text, (b,); 0 for texts without any."""
    labels = _next(batch)
    each = F.cross_entropy(_wide(outputs).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return each.view(labels.shape).sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def token_score(outputs: Any, batch: Batch) -> Metrics:
    """Return the sums over labeled tokens: cross-entropy in nats, correct predictions, and their number."""
    labels, logits = _next(batch), _wide(outputs)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return Metrics(loss, (logits.argmax(-1) == labels).sum(), (labels != IGNORED).sum())


def class_losses(outputs: Any, batch: Batch) -> Tensor:
    """Return the cross-entropy in nats of each text, (b,)."""
    return F.cross_entropy(_wide(outputs), batch["y"], reduction="none")


def class_score(outputs: Any, batch: Batch) -> Metrics:
    """Return the sums over texts: cross-entropy in nats, correct predictions, and their number."""
    return classification_metrics(class_losses(outputs, batch), outputs.logits, batch["y"])


def _next(batch: Batch) -> Tensor:
    """Return the label predicted at each position, (b, T): that of the following position."""
    return F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


def _wide(outputs: Any) -> Tensor:
    logits: Tensor = outputs.logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

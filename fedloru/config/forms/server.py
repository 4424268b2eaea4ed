"""What becomes of the average on the server."""

from __future__ import annotations

from typing import Literal

from fedloru.config.fields import Positive, Section, Share


class NoServer(Section):
    """The average is the new model."""

    rule: Literal["none"] = "none"
    """The optimizer that the averaged change goes through."""


class ServerRule(Section):
    """FedOpt: the averaged change is the gradient of an optimizer on the server."""

    rule: Literal["momentum", "adagrad", "adam", "yogi"] = "momentum"
    """The optimizer that the averaged change goes through."""
    lr: Positive | None = None
    """The server's learning rate; where left out, 1 for momentum and 0.01 for the others."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share = 0.99
    """Decay of the second moment (adam, yogi)."""
    eps: Positive = 1e-3
    """Added to the root of the second moment (adagrad, adam, yogi)."""


Server = NoServer | ServerRule

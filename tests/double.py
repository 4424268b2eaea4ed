"""A perceptron in float64, which runs name by its path, so that other processes can import it."""

from __future__ import annotations

import torch
from torch import nn

DOUBLE = "python:tests.double:double"


class Double(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(features, 10).double(), nn.Linear(10, classes).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc2(self.fc1(x.flatten(1).double()).relu())
        return y


def double(in_features: int, classes: int) -> nn.Module:
    """Return a perceptron in float64."""
    return Double(in_features, classes)

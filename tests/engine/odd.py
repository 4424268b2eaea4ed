"""Small unusual models, which engines must either support or reject."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru.data import Examples
from tests.engine.cohort import sequences


class Scale(nn.Module):
    """Has parameters, but no leaf for its type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Temperature(nn.Module):
    """Has a 0-d parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x / self.temperature


class Sum(nn.Module):
    """Has two parameters with the same gradient tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.u + self.v)


class Stretched(nn.Module):
    """Has a parameter whose gradient is an expanded scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Parameter(torch.full((4,), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.parts.sum()


class Whole(nn.Module):
    """Has parameters of the root module in addition to those of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.fc = nn.Parameter(torch.full((6,), 0.5)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.gain * x))


class Attention(nn.Module):
    """torch's attention, with the last positions of every sequence masked."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        padding = (torch.arange(5) >= 3).expand(len(x), 5)
        return self.head(self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0].mean(1))


class Tied(nn.Module):
    """Shares one weight between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Again(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(torch.tanh(self.fc(x)))))


class Functional(nn.Module):
    """Uses functional dropout, without a dropout module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(torch.tanh(self.fc(x)), 0.5, self.training))


class Centre(nn.Module):
    """Mixes the examples of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Counting(nn.Module):
    """Keeps a running mean of the batches, and uses it from the next batch on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x - self.mean)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return y


class Noisy(nn.Module):
    """Draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + 0.1 * torch.randn_like(x))


class Renormed(nn.Module):
    """Has an embedding that may be renormed when it is looked up; the initial vectors are below the limit."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.token, self.head = nn.Embedding(7, 4, **settings), nn.Linear(4, 3)  # type: ignore[arg-type]
        nn.init.uniform_(self.token.weight, -0.1, 0.1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.token(ids).sum(1))


class Clamped(nn.Module):
    """Clamps its weights in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.fc.weight.clamp_(-0.1, 0.1)
        return self.head(torch.tanh(self.fc(x)))


def ids() -> Examples:
    found = sequences()
    return found | {"x": (found["x"][:, :, 0].abs() * 5).long() % 7}

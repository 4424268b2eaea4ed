"""Folded BatchNorm with batches of different sizes, compared with each client's module trained by ``torch.optim``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from fedloru.recipe import Recipe
from tests.engine.cohort import fedavg, near, train_plain, vectors

# With batches of 5, the clients' last batches have 4, 4 (the only one), 3 and 1 examples; the last one needs pixels.
RAGGED = Recipe(lr=0.2, momentum=0.9, weight_decay=0.02, batch_size=5, epochs=2, clip=0.7)
EVEN = RAGGED._replace(batch_size=2, steps=2)  # full batches only: no masks


def flat(**settings: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, **settings), nn.Tanh(), nn.Linear(4, 3))


def pixels(**settings: Any) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4, **settings), nn.Flatten(), nn.Linear(8, 3)
    )


def lines(**settings: Any) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (3, 2)), nn.BatchNorm1d(3, **settings), nn.Flatten(), nn.Linear(6, 3))


def boxes(**settings: Any) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (3, 1, 1, 2)), nn.BatchNorm3d(3, **settings), nn.Flatten(), nn.Linear(6, 3))


SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "momentum and eps": {"momentum": 0.4, "eps": 0.1},
    "not affine": {"affine": False},
    "no running statistics": {"track_running_stats": False},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("make", [flat, pixels, lines, boxes])
@pytest.mark.parametrize("recipe", [RAGGED, EVEN], ids=["ragged", "even"])
@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_batch_norm_is_each_clients_own(
    settings: str, make: Callable[..., nn.Module], recipe: Recipe, chunk: int
) -> None:
    if make is flat and recipe is RAGGED:
        recipe = recipe._replace(batch_size=7)  # last batches of 2, 4, 6 and 6
    cohort = fedavg(lambda: make(**SETTINGS[settings]), vectors(), recipe)
    for engine in ("sequential", "fused"):
        ups = cohort.ups(engine, chunk=chunk)
        assert ups.keys() == {0, 1, 2, 3}
        for client, up in ups.items():
            assert near(up.shared, train_plain(cohort, client))

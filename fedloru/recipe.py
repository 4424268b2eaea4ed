"""How a client trains: the local solver and its settings, as data."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from fedloru.kinds import Betas, Count, Flag, NotNegative, Positive, Share, Whole


class Recipe(NamedTuple):
    """The settings of local training, the same for every client of a round.

    ``steps``, where given, replaces ``epochs``. ``clip`` bounds the norm of each step's gradient (None: no bound).
    ``crop`` pads images by so many pixels and crops back at random; ``flip`` mirrors half of them. ``bucket`` puts
    texts of like length into one batch.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: NotNegative = 0.1
    momentum: Share = 0.0
    weight_decay: NotNegative = 0.0
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    epochs: Count = 1
    steps: Count | None = None
    batch_size: Count = 32
    clip: Positive | None = None
    schedule: Literal["constant", "cosine", "step"] = "constant"
    decay_every: Count = 10
    decay: Positive = 0.1
    crop: Whole = 0
    flip: Flag = False
    bucket: Flag = False


def at_round(recipe: Recipe, round: int, rounds: int) -> Recipe:
    """Return ``recipe`` with the learning rate of ``round``, counted from 1 to ``rounds``.

    ``cosine`` goes from lr at round 1 towards 0 after the last; ``step`` multiplies by ``decay`` every
    ``decay_every`` rounds.
    """
    factor = 1.0
    if recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * (round - 1) / rounds))
    elif recipe.schedule == "step":
        factor = recipe.decay ** ((round - 1) // recipe.decay_every)
    return recipe._replace(lr=recipe.lr * factor)

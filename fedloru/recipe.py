"""The settings of local training, as data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from fedloru.errors import quoted
from fedloru.settings import In, Table, calling, is_reference
from fedloru.settings.types import Betas, Count, Flag, NotNegative, Per, Positive, Share, When, Whole

Precision = Literal["full", "bf16"]

OPTIMIZERS: Table[Any] = Table("optimizer", {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3})
"""The optimizers with their default learning rates; a ``python:`` name refers to a function, see ``own_optimizer``."""
OWN_RATE = 1e-3
"""The default learning rate of an optimizer of yours."""


def constant(recipe: Recipe, round: int, rounds: int) -> float:
    """Return 1."""
    return 1.0


def cosine(recipe: Recipe, round: int, rounds: int) -> float:
    """Return a factor that decreases from 1 in round 1 towards 0 after the last round."""
    return 0.5 * (1 + math.cos(math.pi * (round - 1) / rounds))


def step(recipe: Recipe, round: int, rounds: int) -> float:
    """Return a factor that is multiplied by ``decay`` every ``decay_every`` rounds."""
    return float(recipe.decay ** ((round - 1) // recipe.decay_every))


SCHEDULES: Table[Callable[..., float]] = Table("schedule", {"constant": constant, "cosine": cosine, "step": step})
"""The factors of the learning rate in each round; a ``python:`` name refers to a function of (round, rounds)."""


class Recipe(NamedTuple):
    """The settings of local training, the same for every client of a round.

    Args:
        optimizer: the local optimizer; every round starts with a new one. A configuration of a language model has
            adamw by default. A function takes (value, gradient, state, lr, step), and returns the new value and state.
        lr: the learning rate; by default 0.1 for sgd, and 0.001 for other optimizers.
        momentum: the momentum of SGD.
        weight_decay: the weight decay.
        betas: the decay rates of the two moments.
        eps: a constant added to the square root of the second moment.
        epochs: the number of passes over a client's examples in a round.
        steps: the number of local steps in a round; by default ``epochs`` passes.
        batch_size: the number of examples in a local step.
        drop_last: whether the last batch of an epoch is dropped if it is smaller than the others, since BatchNorm
            fails on a single example; a client with fewer examples than a batch keeps its one batch.
        clip: the maximum norm of the gradient of a local step; 0: it is not clipped.
        schedule: how the learning rate changes over the rounds; a function takes (round, rounds), and returns a factor.
        decay_every: the number of rounds between decays of the learning rate.
        decay: the factor by which the learning rate decays.
        crop: the number of pixels by which images are padded before a random crop to their size.
        flip: whether each image is mirrored with probability 1/2.
        bucket: whether texts of similar length share batches, to reduce padding.
        precision: the precision of local training: full is that of the model's weights; with bf16, products are
            computed in bfloat16 by autocast, while trained tensors, optimizer, losses, messages, server and evaluation
            stay in float32.
    """

    optimizer: Annotated[str, In(OPTIMIZERS)] = "sgd"
    lr: Annotated[NotNegative | None, Per("optimizer")] = None
    momentum: Annotated[Share, When("optimizer", ("sgd",))] = 0.9
    weight_decay: Annotated[NotNegative, When("optimizer", ("sgd", "adam", "adamw"))] = 0.0
    betas: Annotated[Betas, When("optimizer", ("adam", "adamw"))] = (0.9, 0.999)
    eps: Annotated[Positive, When("optimizer", ("adam", "adamw"))] = 1e-8
    epochs: Count = 1
    steps: Count | None = None
    batch_size: Count = 10
    drop_last: Flag = False
    clip: NotNegative | None = 1.0
    schedule: Annotated[str, In(SCHEDULES)] = "cosine"
    decay_every: Annotated[Count, When("schedule", ("step",))] = 10
    decay: Annotated[Positive, When("schedule", ("step",))] = 0.1
    crop: Whole = 0
    flip: Flag = False
    bucket: Flag = False
    precision: Precision = "full"

    def __repr__(self) -> str:
        """Return the settings that differ from their defaults, as the call that makes the recipe."""
        changed = {key: value for key, value in self._asdict().items() if value != self._field_defaults[key]}
        return f"Recipe({', '.join(f'{key}={value!r}' for key, value in changed.items())})"

    @property
    def rate(self) -> float:
        """The learning rate, or its default for the optimizer."""
        default: float = OPTIMIZERS.get(self.optimizer, OWN_RATE)
        return default if self.lr is None else self.lr


def at_round(recipe: Recipe, round: int, rounds: int) -> Recipe:
    """Return ``recipe`` with the learning rate of ``round``, counted from 1 to ``rounds``.

    Raises:
        ConfigError: a schedule of yours fails, or returns something else than a factor >= 0.
    """
    schedule = SCHEDULES.find(recipe.schedule)
    if not is_reference(recipe.schedule):
        return recipe._replace(lr=recipe.rate * schedule(recipe, round, rounds))
    with calling(recipe.schedule, SCHEDULES.error):
        factor: Any = schedule(round, rounds)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
        got = f"{recipe.schedule} returned {quoted(factor)} for round {round} of {rounds}"
        raise SCHEDULES.error(f"{got}, expected a factor >= 0 of the learning rate")
    return recipe._replace(lr=recipe.rate * factor)

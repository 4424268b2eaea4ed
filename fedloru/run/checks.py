"""The checks of a plan before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fedloru import metrics, own_optimizer
from fedloru import net as nets
from fedloru.advice import got
from fedloru.data import Partition, size
from fedloru.data.dataset import dataset_problem
from fedloru.errors import ConfigError, WireError, quoted
from fedloru.method import Method
from fedloru.net import Net, loss
from fedloru.recipe import Recipe, at_round
from fedloru.run.plan import Plan
from fedloru.settings import PREFIX, problems_of, settings_of, short
from fedloru.wire.codec import find as find_codec

FEWEST = 3
"""The smallest cohort in which a minority of the clients can be outvoted."""

EXPECTED: dict[str, tuple[type, str]] = {
    "net": (Net, "a Net: fedloru.attach(model, rank=8), or fedloru.make(model) to train all weights"),
    "method": (Method, "a method, such as fedloru.fedloru(tau=5)"),
    "partition": (Partition, "a partition, such as fedloru.data.iid(dataset, clients=10)"),
    "profiles": (tuple, "a tuple of profiles, one per client"),
    "recipe": (Recipe, "a fedloru.Recipe, such as Recipe(lr=0.1, batch_size=32)"),
}
"""The parts of a plan, each with its type and how to make it."""


def check(plan: Plan) -> None:
    """Check that ``plan`` can run; if its parts have the right types, all other problems are reported at once.

    Raises:
        ConfigError: a part or a setting is invalid, settings or profiles do not fit the method, the data or the
            partition, or the device is not available.
    """
    _refuse(*_dataset_problems(plan.dataset), *(problem for name in EXPECTED for problem in _part_problems(plan, name)))
    _refuse(
        *problems_of(settings_of(Plan), vars(plan)),
        *problems_of(settings_of(Recipe), plan.recipe._asdict()),
        *_recipe_problems(plan),
        *_augmentation_problems(plan),
        *_example_problems(plan),
        *_metric_problems(plan),
        *_mismatches(plan),
        *_profile_problems(plan),
        *_resource_problems(plan),
    )


def _refuse(*problems: str) -> None:
    if problems:
        raise ConfigError(list(problems), "the run")


def _dataset_problems(dataset: Any) -> Iterator[str]:
    if problem := dataset_problem(dataset):
        yield problem


def _part_problems(plan: Plan, name: str) -> Iterator[str]:
    """Yield what is wrong with the type of a part; from Python, it may be anything."""
    value, (expected, phrase) = getattr(plan, name), EXPECTED[name]
    if not isinstance(value, expected):
        yield f"{name} is {got(value)}, expected {phrase}"


def _mismatches(plan: Plan) -> Iterator[str]:
    """Yield what the net, the data and the partition lack."""
    seed: Any = plan.seed  # a value of another type is reported as such
    if isinstance(seed, int) and seed >= 2**63:
        yield f"seed is {quoted(seed)}, but messages have room for 63 bits: choose a smaller one"
    if not size(plan.dataset.test):
        yield f"the data set {plan.dataset.name!r} has no test examples: hold some out, or add a test set"
    if not plan.net.trainable:
        yield "the model has no parameter to train: all are frozen or excluded, or it has none"
    if plan.recipe.bucket and "length" not in plan.dataset.train:
        yield f"bucket is set, but the examples of {plan.dataset.name!r} have no length to sort by: remove it"
    cohort: Any = plan.cohort
    if isinstance(cohort, int) and cohort > plan.clients:
        yield f"a cohort of {cohort} is larger than the partition, which has {plan.clients} clients"
    if isinstance(cohort, int) and cohort < FEWEST and plan.method.traits.keeps_replies:
        yield (
            f"aggregation.rule protects against a minority of the cohort, and {cohort} of {cohort} clients have none: "
            f"raise cohort.size to {FEWEST} or more, or set aggregation.rule = 'mean'"
        )


def _profile_problems(plan: Plan) -> Iterator[str]:
    if plan.profiles and len(plan.profiles) != plan.clients:
        yield f"there are {len(plan.profiles)} profiles for {plan.clients} clients, expected one per client"
    if plan.method.traits.ranks == "one" and any(plan.profiles):
        yield (
            f"{short(plan.method.name)} trains the same rank on all clients and ignores their profiles: remove "
            "lowrank.capacities (profiles in a plan), or use a method for clients of different ranks, which "
            "`fedloru methods` lists"
        )
    elif plan.method.traits.keeps_replies and any(plan.profiles):
        yield (
            "what clients of different ranks send has no coordinates in common: remove lowrank.capacities (profiles in "
            "a plan), or set aggregation.rule = 'mean' with aggregation.max_norm"
        )
    if plan.method.traits.ranks == "different" and not any(plan.profiles):
        yield (
            f"{short(plan.method.name)} requires clients of different ranks, but all have the same: set "
            "lowrank.capacities (profiles in a plan), or use 'fedlora'"
        )


def _resource_problems(plan: Plan) -> Iterator[str]:
    """Yield why the codec, the device or the precision cannot be used."""
    if str(plan.codec).startswith(PREFIX):
        try:
            find_codec(plan.codec)
        except WireError as error:
            yield str(error)
    try:
        torch.empty(0, device=str(plan.device))
    except (RuntimeError, AssertionError) as error:
        yield f"device {plan.device!r} cannot be used ({str(error).splitlines()[0]}); use 'cpu'"
        return
    if problem := nets.precision_problem(plan.recipe.precision, torch.device(plan.device), plan.net.params):
        yield problem


def _recipe_problems(plan: Plan) -> Iterator[str]:
    """Yield why the optimizer or the schedule cannot be used."""
    settings = (settings_of(Recipe), plan.recipe._asdict()), (settings_of(Plan), {"rounds": plan.rounds})
    if any(list(problems_of(*each)) for each in settings):
        return
    try:
        own = own_optimizer.find(plan.recipe)
        at_round(plan.recipe, 1, plan.rounds)
        at_round(plan.recipe, plan.rounds, plan.rounds)
    except ConfigError as error:
        yield from error.problems
        return
    if own is not None and plan.recipe.weight_decay:
        yield "weight_decay is set, but an optimizer of yours does not use it: remove it, and decay the value yourself"


def _augmentation_problems(plan: Plan) -> Iterator[str]:
    x, name = plan.dataset.train.get("x"), plan.dataset.name
    found = f"have {' and '.join(plan.dataset.train)}" if x is None else f"have shape {tuple(x.shape[1:])}"
    augmentations = [setting for setting in ("crop", "flip") if getattr(plan.recipe, setting)]
    if augmentations and (x is None or x.ndim != 4):
        yield (
            f"{' and '.join(augmentations)} need images (channels, height, width), but the examples of {name!r} "
            f"{found}: remove {'it' if len(augmentations) == 1 else 'them'}"
        )


def _example_problems(plan: Plan) -> Iterator[str]:
    """Yield what the examples lack for a model of images or vectors with the default loss."""
    needed = ["x"] * (plan.net.inputs is nets.images) + ["y"] * (plan.net.losses in loss.OF_LABELS)
    for part, examples in (("training", plan.dataset.train), ("test", plan.dataset.test)):
        where = f"the {part} examples of {plan.dataset.name!r}"
        if missing := [key for key in needed if examples and key not in examples]:
            yield (
                f"{where} have {' and '.join(map(repr, examples))}, but no {' and '.join(map(repr, missing))}: rename "
                "them, or set inputs and losses of the net"
            )
        elif "y" in needed and "y" in examples:
            problem = loss.problem(plan.net.losses, examples["y"], len(plan.dataset.classes))
            yield from [f"{where}: {problem}"] if problem else []


def _metric_problems(plan: Plan) -> Iterator[str]:
    if list(problems_of(settings_of(Plan), {"metrics": plan.metrics})):
        return
    try:
        chosen = plan.chosen_metrics
    except ConfigError as error:
        yield from error.problems
        return
    has_labels = not plan.dataset.test or "y" in plan.dataset.test
    yield from metrics.problems(chosen, plan.dataset.task, has_labels)

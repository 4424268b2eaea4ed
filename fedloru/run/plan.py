"""Everything a run is made of, and what is checked before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn

from fedloru import kinds, lowrank, tree
from fedloru.data import Dataset, Partition
from fedloru.engine import EngineName
from fedloru.engine.fused.fold import Path
from fedloru.errors import ConfigError
from fedloru.kinds import Count
from fedloru.method import Method, Profile
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.rng import gen
from fedloru.tree import Params
from fedloru.wire import CODECS


class Plan(NamedTuple):
    """A run as a value: the same plan gives the same run.

    ``seed`` draws the factors and the local batches, ``cohort_seed`` the cohorts (None: ``seed``). ``codec`` is
    how values travel; with ``round_trip=False`` nothing is encoded and bytes come from the formula.
    ``first_download`` says whether a client's first contact costs it the base, or it builds W₀ itself, as it always
    does where the net says so. ``profiles`` has what makes each client differ, such as its rank; (): nothing does.
    ``eval_hook`` is called with the shared model at every evaluation, and what it returns joins the row of the round;
    its "generations" have their own file. ``increments`` says whether the run folder keeps the factors of every merge
    (None: where the model is a language model, which may be taken home as an adapter).
    """

    net: Net
    method: Method
    data: Dataset
    partition: Partition
    rounds: Count
    cohort: Count
    recipe: Recipe = Recipe()
    seed: int = 0
    cohort_seed: int | None = None
    engine: EngineName = "auto"
    chunk: Count | None = None
    path: Path = "auto"
    device: str = "cpu"
    codec: str = "fp32"
    round_trip: bool = True
    first_download: bool = True
    profiles: tuple[Profile, ...] = ()
    eval_every: Count = 1
    eval_clients: Count = 100
    diagnostics: bool = True
    eval_hook: Callable[[Net, Params], dict[str, Any]] | None = None
    checkpoint_every: Count = 10
    increments: bool | None = None

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.partition.train)

    @property
    def sends_base(self) -> bool:
        """Whether a client's first contact costs it the base; never where it loads that itself."""
        return self.first_download and not self.net.local_base

    @property
    def keeps_increments(self) -> bool:
        """Whether the run folder keeps the factors of every merge."""
        return self.net.local_base if self.increments is None else self.increments


def check(plan: Plan) -> None:
    """Refuse a plan that cannot run, all problems at once.

    Raises:
        ConfigError: numbers out of range, choices that are none, or a device that is not there.
    """
    problems = [*kinds.problems(plan), *kinds.problems(plan.recipe), *_no_images(plan)]
    if plan.codec not in CODECS:
        problems.append(f"codec is {plan.codec!r}, expected {' or '.join(map(repr, CODECS))}")
    if not len(next(iter(plan.data.test.values()), ())):
        problems.append(f"the data set {plan.data.name!r} has no test examples: hold some out, or give a test set")
    if plan.recipe.bucket and "length" not in plan.data.train:
        problems.append(
            f"bucket is set, but the examples of {plan.data.name!r} have no length to sort by: leave it out"
        )
    if plan.cohort > plan.clients:
        problems.append(f"a cohort of {plan.cohort} was asked for, but the partition has {plan.clients} clients")
    if plan.profiles and len(plan.profiles) != plan.clients:
        problems.append(f"there are {len(plan.profiles)} profiles for {plan.clients} clients: give each client one")
    if plan.method.ranks == "one" and any(plan.profiles):
        problems.append(
            f"{plan.method.name} trains one rank on all clients, and would ignore that some cannot: leave "
            "lowrank.capacities out (profiles in a plan), or take a method for clients of different rank: "
            "`fedloru methods` lists them"
        )
    if plan.method.ranks == "different" and not any(plan.profiles):
        problems.append(
            f"{plan.method.name} is made for clients of different rank, and here all have the same: say which ranks "
            "there are (lowrank.capacities in a configuration, profiles in a plan), or use 'fedlora'"
        )
    if problem := _device_problem(plan.device):
        problems.append(problem)
    if problems:
        raise ConfigError(problems, "the run")


def _no_images(plan: Plan) -> Iterator[str]:
    x, name = plan.data.train.get("x"), plan.data.name
    found = f"have {' and '.join(plan.data.train)}" if x is None else f"are {tuple(x.shape[1:])}"
    asked = [setting for setting in ("crop", "flip") if getattr(plan.recipe, setting)]
    if asked and (x is None or x.ndim != 4):
        yield (
            f"{' and '.join(asked)} need images (channels, height, width), but the examples of {name!r} {found}: "
            f"leave {'it' if len(asked) == 1 else 'them'} out"
        )


def cohort(plan: Plan, round: int) -> list[int]:
    """Return the clients sampled for ``round``, without replacement and in order."""
    seed = plan.seed if plan.cohort_seed is None else plan.cohort_seed
    drawn = torch.randperm(plan.clients, generator=gen(seed, "cohort", round))[: plan.cohort]
    return sorted(drawn.tolist())


def profile(plan: Plan, client: int) -> Profile:
    """Return what makes ``client`` differ; () where nothing does."""
    return plan.profiles[client] if plan.profiles else ()


def on_device(plan: Plan) -> Plan:
    """Return ``plan`` with the model and the data set on its device."""
    net = plan.net._replace(
        model=_on_device(plan.net.model, plan.device),
        params=tree.to(plan.net.params, plan.device),
        buffers=tree.to(plan.net.buffers, plan.device),
    )
    data = plan.data._replace(train=tree.to(plan.data.train, plan.device), test=tree.to(plan.data.test, plan.device))
    return plan._replace(net=net, data=data)


def _on_device(model: nn.Module, device: str) -> nn.Module:
    """Return ``model``, or a copy where it holds a tensor elsewhere: buffers that are not saved are in no tree."""
    if all(t.device.type == torch.device(device).type for t in chain(model.parameters(), model.buffers())):
        return model
    return lowrank.shallow_copy(model, trained=False).to(device)


def _device_problem(device: str) -> str | None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        return f"device {device!r} cannot be used ({str(error).splitlines()[0]}); use 'cpu'"
    return None

"""Four clients with different numbers of examples, trained by either engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.client import local_batch, local_schedule
from fedloru.data import Examples
from fedloru.engine import Outcome, Task, choose
from fedloru.method import Method, State, Up
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.wire import Channel

SIZES = (9, 4, 13, 6)
RECIPE = Recipe(lr=0.1, momentum=0.9, weight_decay=0.01, batch_size=4, epochs=2, clip=1.0)


def vectors(width: int = 6, seed: int = 1) -> Examples:
    """Return vectors of three classes."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(SIZES), width, generator=g, dtype=torch.float64)
    return {"x": x, "y": torch.randint(0, 3, (sum(SIZES),), generator=g)}


def sequences(length: int = 5, width: int = 8) -> Examples:
    """Return sequences of vectors, all of the same length."""
    flat = vectors(length * width)
    return flat | {"x": flat["x"].view(-1, length, width)}


def linear() -> nn.Module:
    """Return a linear model of vectors."""
    return nn.Linear(6, 3)


def jobs(states: dict[int, tree.Params] | None = None, clients: Sequence[int] = range(4)) -> list[Job]:
    """Return the jobs of ``clients``, each with its own rows."""
    starts = [sum(SIZES[:k]) for k in range(4)]
    client_states = states or {}
    return [Job(k, torch.arange(starts[k], starts[k] + SIZES[k]), client_states.get(k, {})) for k in clients]


def built(make: Callable[[], nn.Module], **settings: Any) -> Net:
    """Return a float64 model, always with the same weights, and with factors attached if ``settings`` are given."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().double()
    return nets.attach(module, **{"targets": ["*"], **settings}) if settings else nets.make(module)


class Cohort(NamedTuple):
    """A net, a method and data, which any engine can train."""

    net: Net
    method: Method
    data: Examples
    recipe: Recipe = RECIPE

    def train(self, state: State, engine: str, cohort: Sequence[Job], **settings: Any) -> Outcome:
        """Train one round."""
        chosen = choose(engine, self.net, self.method, state, self.data, self.recipe, **settings)
        channel = Channel(self.net, self.method.name, "run", "exact")
        return chosen.run(Task(state, cohort, self.recipe, 3, channel))

    def rounds(self, engine: str, count: int = 2, **settings: Any) -> State:
        """Return the state after ``count`` rounds of all clients."""
        state = self.method.init(self.net, 3)
        for _ in range(count):
            outcome = self.train(state, engine, jobs(), **settings)
            state = self.method.server(self.net, state, outcome.total)
        return state

    def agree(self, **settings: Any) -> bool:
        """Return whether both engines reach the same state."""
        return close(self.rounds("sequential"), self.rounds("fused", **settings))

    def ups(self, engine: str, **settings: Any) -> dict[int, Up]:
        """Return what each client sends in the first round; clients are identified by weight, which is unique."""
        sent: dict[int, Up] = {}

        def reduce(net: Net, state: State, down: Any, ups: Any, weights: Any) -> Any:
            sent.update(zip((SIZES.index(int(weight)) for weight in weights), ups, strict=True))
            return self.method.reduce(net, state, down, ups, weights)

        observed = self._replace(method=self.method._replace(reduce=reduce))
        observed.train(self.method.init(self.net, 3), engine, jobs(), **settings)
        return sent


def fedavg(make: Callable[[], nn.Module], data: Examples, recipe: Recipe = RECIPE) -> Cohort:
    """Return a cohort that trains every weight of a model."""
    return Cohort(built(make), methods.fedavg(), data, recipe)


def close(x: State, y: State, tolerance: float = 1e-9) -> bool:
    """Return whether two states agree."""
    return all(near(a, b, tolerance) for a, b in ((x.shared, y.shared), (x.base, y.base), (x.aux, y.aux)))


def near(x: tree.Params, y: tree.Params, tolerance: float = 1e-9) -> bool:
    """Return whether two trees agree."""
    return x.keys() == y.keys() and all(torch.allclose(x[k], y[k], rtol=0, atol=tolerance) for k in x)


def train_plain(cohort: Cohort, client: int) -> tree.Params:
    """Return the state dict of a client's module after local training by ``torch.optim``, without an engine."""
    module = copy.deepcopy(cohort.net.model).train()
    r = cohort.recipe
    optimizer = torch.optim.SGD(module.parameters(), r.lr, momentum=r.momentum, weight_decay=r.weight_decay)
    job = jobs()[client]
    plan = local_schedule(job, r, 3, 1)
    for step in range(len(plan.counts)):
        batch = local_batch(cohort.data, plan, step, r)
        optimizer.zero_grad()
        F.cross_entropy(module(batch["x"]), batch["y"]).backward()
        nn.utils.clip_grad_norm_(module.parameters(), r.clip or 0.0)
        optimizer.step()
    return {key: value for key, value in module.state_dict().items() if value.is_floating_point()}

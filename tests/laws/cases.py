"""The table: which methods, which models, on what data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from _pytest.mark import ParameterSet
from torch import Tensor, nn

from fedloru import methods
from fedloru import net as nets
from fedloru.data import Examples
from fedloru.engine import Outcome, Task, choose
from fedloru.method import Method, Profile, State
from fedloru.methods import declaration, wrapper_declaration
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.wire import Channel

CLASSES = 4
SIZES = (9, 4, 13, 6)
"""Examples of each client: ragged in steps, with short last batches."""


def _declared() -> Iterator[tuple[str, Callable[[], Method]]]:
    """Yield a case for each that a method or a wrapper declares."""
    for name, function in methods.METHODS.items():
        for suffix, settings in declaration(function).cases.items():
            yield f"{name}-{suffix}" if suffix else name, partial(methods.make, name, settings)
    for wrapper, function in methods.WRAPPERS.items():
        for case, (name, settings, own) in wrapper_declaration(function).cases.items():
            yield case, partial(_wrapped, wrapper, name, settings, own)


def _wrapped(wrapper: str, name: str, settings: Mapping[str, Any], own: Mapping[str, Any]) -> Method:
    return methods.wrap(methods.make(name, settings), wrapper, own)


METHODS: dict[str, Callable[[], Method]] = dict(_declared())
"""The methods of the table, by name of the case."""

SMALL = nets.attach(nn.Linear(4, 3), rank=2)
NOT_MERGING = tuple(
    name
    for name, make in METHODS.items()
    if not any(make().values(SMALL, round, [()], ()).increment for round in range(1, 9))
)
"""The methods whose base never changes, by their formula."""

RANK_1: Profile = (("rank", 1.0),)


def profiles(method: Method) -> Sequence[Profile]:
    """Return the profiles of the clients: some have rank 1, if the method supports that."""
    return ((), (), (), ()) if method.traits.ranks == "one" else (RANK_1, (), (), RANK_1)


class ConvNet(nn.Module):
    """A convolution with a norm, a strided one, dropout, and a linear head."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm1 = norm()
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.drop2 = nn.Dropout2d(0.2)
        self.head = nn.Linear(6 * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm1(self.conv1(x)))
        return self.head(torch.tanh(self.drop2(self.conv2(x))).flatten(1))


class Transformer(nn.Module):
    """One block of attention with a padding mask; positions are looked up once for the whole batch."""

    def __init__(self, d: int = 8, heads: int = 2, length: int = 5) -> None:
        super().__init__()
        self.token = nn.Embedding(11, d, padding_idx=0)
        self.position = nn.Embedding(length, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.RMSNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(d, CLASSES)
        self.heads = heads

    def forward(self, input: Tensor) -> Tensor:
        b, length = input.shape
        mask = input != 0
        h = self.token(input) + self.position(torch.arange(length, device=input.device)[None])
        z = self.norm1(h)
        q, k, v = (f(z).view(b, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        h = h + self.o(mixed.transpose(1, 2).reshape(b, length, -1))
        h = h + self.drop(self.down(F.gelu(self.up(self.norm2(h)))))
        return self.head((h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def perceptron() -> nn.Module:
    """Return two linear layers and dropout."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, CLASSES))


class Model(NamedTuple):
    """A model of the table, its data and how it is adapted."""

    build: Callable[[], nn.Module]
    data: Callable[[], Examples]
    targets: Sequence[str] = ("*",)
    dropout: float = 0.0
    recipe: Recipe = Recipe(lr=0.1, momentum=0.9, weight_decay=0.01, batch_size=4, epochs=2, clip=1.0)


def pictures() -> Examples:
    """Return 6×6 grey images of four classes."""
    g = torch.Generator().manual_seed(5)
    y = torch.randint(0, CLASSES, (sum(SIZES),), generator=g)
    x = torch.randn(sum(SIZES), 1, 6, 6, generator=g, dtype=torch.float64)
    return {"x": x + y.double().view(-1, 1, 1, 1), "y": y}


def sentences() -> Examples:
    """Return five token ids each, some of them padding (0) at the end."""
    g = torch.Generator().manual_seed(6)
    ids = torch.randint(1, 11, (sum(SIZES), 5), generator=g)
    lengths = torch.randint(2, 6, (sum(SIZES),), generator=g)
    ids[torch.arange(5) >= lengths[:, None]] = 0
    return {"x": ids, "y": ids[:, 0] % CLASSES}


_ADAMW = Recipe("adamw", lr=0.02, weight_decay=0.01, batch_size=4, epochs=2)

MODELS: dict[str, Model] = {
    "mlp": Model(perceptron, pictures, dropout=0.1, recipe=_ADAMW),
    "cnn-group": Model(
        lambda: ConvNet(lambda: nn.GroupNorm(2, 4)),
        pictures,
        recipe=Recipe("adam", 0.02, batch_size=4, crop=1, flip=True),
    ),
    "cnn-batch": Model(lambda: ConvNet(lambda: nn.BatchNorm2d(4)), pictures),
    "transformer": Model(Transformer, sentences, ("token", "q", "v", "up", "down")),
}


def rotated(names: Iterable[str]) -> list[ParameterSet]:
    """Return a parameter (method, model) for each cell of the table: by default, each method runs with one model.

    The models take turns. The other cells are slow tests.
    """
    return [
        pytest.param(name, model, id=f"{name}-{model}", marks=[pytest.mark.slow] * ((row + column) % len(MODELS) > 0))
        for row, name in enumerate(names)
        for column, model in enumerate(MODELS)
    ]


class World(NamedTuple):
    """One cell of the table, ready to train."""

    net: Net
    method: Method
    data: Examples
    jobs: list[Job]
    recipe: Recipe

    def train(self, state: State, engine: str = "sequential", **settings: object) -> Outcome:
        """Train one round of the whole cohort; settings are the engine's, or ``jobs`` and ``recipe``."""
        jobs = sorted(settings.pop("jobs", self.jobs), key=lambda job: job.profile)
        recipe = settings.pop("recipe", self.recipe)
        channel = Channel(self.net, self.method.name, "run", "exact")
        chosen = choose(engine, self.net, self.method, state, self.data, recipe, **settings)
        return chosen.run(Task(state, jobs, recipe, 3, channel))

    def rounds(self, count: int, engine: str = "sequential", **settings: object) -> State:
        """Return the state after ``count`` rounds, in which clients keep what they own."""
        state = self.method.init(self.net, 3)
        jobs = list(settings.pop("jobs", self.jobs))
        for _ in range(count):
            outcome = self.train(state, engine, jobs=jobs, **settings)
            jobs = [job._replace(client_state=outcome.client_state.get(job.client, job.client_state)) for job in jobs]
            state = self.method.server(self.net, state, outcome.total)
        return state


def world(method: str, model: str, dtype: torch.dtype = torch.float64) -> World:
    """Return one cell of the table."""
    case = MODELS[model]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = case.build().to(dtype)
    made = METHODS[method]()
    if made.traits.low_rank:
        net = nets.attach(module, rank=2, alpha=3.0, targets=case.targets, dropout=case.dropout)
    else:
        net = nets.make(module)
    data = {key: value.to(dtype) if value.is_floating_point() else value for key, value in case.data().items()}
    starts = [sum(SIZES[:k]) for k in range(len(SIZES))]
    jobs = [Job(k, torch.arange(starts[k], starts[k] + n), {}, profiles(made)[k]) for k, n in enumerate(SIZES)]
    return World(net, made, data, jobs, case.recipe)

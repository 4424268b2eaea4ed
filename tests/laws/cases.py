"""The table: which methods, which models, on what data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import methods
from fedloru import net as nets
from fedloru.client import Job
from fedloru.data import Examples
from fedloru.engine import Outcome, Task, choose
from fedloru.method import Method, Profile, State
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.wire import Channel

CLASSES = 4
SIZES = (9, 4, 13, 6)
"""Examples of each client: ragged in steps, with short last batches."""

METHODS: dict[str, Callable[[], Method]] = {
    "fedavg": methods.fedavg,
    "fedlora": methods.fedlora,
    "fedloru": lambda: methods.fedloru(tau=2),
    "fedloru-list": lambda: methods.fedloru(tau=[2, 3]),
    "fedloru-keep": lambda: methods.fedloru(tau=2, reset="keep"),
    "fedloru-published": lambda: methods.fedloru(tau=2, base="zero", init="both"),
    "fedloru-exact": lambda: methods.fedloru(tau=2, accumulate="exact"),
    "fedloru-truncated": lambda: methods.fedloru(tau=2, accumulate="exact", accumulate_rank=2),
    "pfedloru": lambda: methods.pfedloru(tau=2, private_rank=1, private_scale=0.5, private_epochs=1),
    "mfedloru": lambda: methods.mfedloru(tau=2, nested_scale=2.0),
    "mfedloru-exact": lambda: methods.mfedloru(tau=2, accumulate="exact"),
    "ffalora": methods.ffalora,
    "rolora": methods.rolora,
    "fedsa": methods.fedsa,
    "flora": methods.flora,
    "fedex": methods.fedex,
    "scaffold": lambda: methods.scaffold(methods.fedloru(tau=2), lr=0.1, clients=5),
    "scaffold-rolora": lambda: methods.scaffold(methods.rolora(), lr=0.1, clients=5),
    "flexlora": methods.flexlora,
    "hetlora": methods.hetlora,
    "fedhm": methods.fedhm,
    "fedlmt": methods.fedlmt,
    "fedlmt-random": lambda: methods.fedlmt(init="random"),
    "fedpara": methods.fedpara,
    "fedpara-model": lambda: methods.fedpara(init="model"),
    "pfedpara": lambda: methods.fedpara(personal=True),
    "fedmud": lambda: methods.fedmud(interval=2, aad=False),
    "fedmud-aad": lambda: methods.fedmud(interval=2),
    "prox": lambda: methods.prox(methods.fedloru(tau=2), mu=0.5),
    "clip": lambda: methods.clip(methods.fedloru(tau=2), norm=0.05),
    "server-momentum": lambda: methods.server_opt(methods.fedloru(tau=2), rule="momentum", lr=0.7),
    "server-adam": lambda: methods.server_opt(methods.fedloru(tau=2), rule="adam", lr=0.05),
    "server-yogi": lambda: methods.server_opt(methods.fedavg(), rule="yogi", lr=0.05),
    "server-adagrad": lambda: methods.server_opt(methods.fedlora(), rule="adagrad", lr=0.05),
}


NOT_MERGING = (
    "fedavg",
    "fedlora",
    "ffalora",
    "rolora",
    "fedsa",
    "scaffold-rolora",
    "server-yogi",
    "server-adagrad",
    "flexlora",
    "hetlora",
    "fedhm",
    "fedlmt",
    "fedlmt-random",
    "fedpara",
    "fedpara-model",
    "pfedpara",
)
"""The methods whose base never changes."""

PRUNING = ("hetlora",)
"""The methods whose clients may send less than their formula counts."""

PROFILES: dict[str, Sequence[Profile]] = {
    "flexlora": ((("rank", 1.0),), (), (), ()),
    "hetlora": ((), (("rank", 1.0),), (), (("rank", 1.0),)),
    "fedhm": ((), (), (("rank", 1.0),), ()),
    "flora": ((("rank", 1.0),), (), (), (("rank", 1.0),)),
    "mfedloru": ((("rank", 1.0),), (), (("rank", 1.0),), ()),
    "mfedloru-exact": ((), (("rank", 1.0),), (), ()),
}
"""The methods whose clients differ, and how."""


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
    if made.low_rank:
        net = nets.attach(module, rank=2, alpha=3.0, targets=case.targets, dropout=case.dropout)
    else:
        net = nets.make(module)
    data = {key: value.to(dtype) if value.is_floating_point() else value for key, value in case.data().items()}
    starts = [sum(SIZES[:k]) for k in range(len(SIZES))]
    profiles = PROFILES.get(method, [()] * len(SIZES))
    jobs = [Job(k, torch.arange(starts[k], starts[k] + n), {}, profiles[k]) for k, n in enumerate(SIZES)]
    return World(net, made, data, jobs, case.recipe)

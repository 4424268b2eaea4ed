"""What a worker does: it is built once from a blueprint, and trains parts of a cohort."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.engine.setup import Chosen, Setup
from fedloru.engine.task import Outcome, Task
from fedloru.errors import FedloruError, traced
from fedloru.method import Down, Profile, State, Up
from fedloru.methods import rebuild
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.tree import Params
from fedloru.wire import Channel, Traffic

Message = tuple[Down, list[Up], list[float]]
"""What the clients of one profile received, what they sent, and their weights."""


class Process(NamedTuple):
    """The settings of a process that results depend on, and where it finds modules."""

    versions: Mapping[str, str]
    directory: str
    path: Sequence[str]
    dtype: torch.dtype
    precision: str
    deterministic: bool
    onednn: bool

    @staticmethod
    def this() -> Process:
        """Return the settings of this process."""
        return Process(
            {name: version(name) for name in ("fedloru", "torch")},
            str(Path.cwd()),
            [*sys.path, str(Path.cwd())],
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            bool(torch.backends.mkldnn.enabled),
        )

    def enter(self) -> None:
        """Give this process the settings, with one thread.

        Raises:
            FedloruError: it has other versions of the libraries.
        """
        if (mine := Process.this().versions) != self.versions:
            got, expected = (
                " and ".join(f"{name} {number}" for name, number in v.items()) for v in (mine, self.versions)
            )
            raise FedloruError(f"a worker has {got}, but the run has {expected}: install the same on all machines")
        if Path(self.directory).is_dir():
            os.chdir(self.directory)
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        torch.set_num_threads(1)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.mkldnn.enabled = self.onednn  # type: ignore[assignment]  # torch declares a property


class Blueprint(NamedTuple):
    """What a worker is built from; each pool sends the ``net``, the ``data`` and tensors in its own way."""

    net: Any
    params: Any
    buffers: Any
    method: str
    config: dict[str, Any]
    state: Any
    data: Any
    recipe: Recipe
    chunk: int | None
    path: Any
    build: Callable[[Setup], Chosen]
    device: str


class Round(NamedTuple):
    """What all parts of a round have in common; ``state`` has no base."""

    state: Any
    recipe: Recipe
    seed: int
    run: str
    codec: str
    measured: bool
    observed: bool


class Result(NamedTuple):
    """The results of one part; ``messages`` are empty unless the round is observed."""

    outcome: Outcome
    accounts: dict[Profile, Traffic]
    messages: list[Message]


class Trainer:
    """Trains parts of a cohort with the engine of a blueprint, whose tensors and ``net`` have arrived.

    Raises:
        FedloruError: the method cannot be made again.
    """

    def __init__(self, given: Blueprint) -> None:
        model = given.net.model.to(given.device)
        params = tree.map(Tensor.detach, shared(given.params, dict(model.named_parameters())))
        self.net: Net = given.net._replace(model=model, params=params, buffers=given.buffers)
        self.method = rebuild(given.method, given.config)
        state = given.state._replace(base=shared(given.state.base, params))
        setup = Setup(self.net, self.method, state, given.data, given.recipe, given.chunk, given.path)
        self._engine = given.build(setup).run

    def train(self, base: Params, round: Round, jobs: Sequence[Job]) -> Result:
        """Train ``jobs`` from the state of ``round`` with ``base``.

        Raises:
            FedloruError: a client failed, or code of the user.
        """
        try:
            return self._train(round.state._replace(base=base), round, jobs)
        except (FedloruError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a method of the user may raise anything
            number = round.state.round + 1
            raise FedloruError(f"round {number}: a worker failed: {traced(error)}; fix it") from error

    def _train(self, state: State, round: Round, jobs: Sequence[Job]) -> Result:
        channel = Channel(self.net, self.method.name, round.run, round.codec, round.measured)
        messages: list[Message] = []

        def observe(down: Down, ups: Sequence[Up], weights: Sequence[float]) -> None:
            if not messages or messages[-1][0] is not down:
                messages.append((down, [], []))
            messages[-1][1].extend(ups)
            messages[-1][2].extend(weights)

        task = Task(state, jobs, round.recipe, round.seed, channel, observe if round.observed else None)
        outcome = self._engine(task)
        return Result(
            outcome, dict(channel.accounts), [(self._observed(down), ups, weights) for down, ups, weights in messages]
        )

    def _observed(self, down: Down) -> Down:
        """Return what an observer reads of a message: without the base, but for the factors that it holds."""
        return down._replace(base=tree.select(down.base, sorted(self.net.factors & down.base.keys())))


def shared(views: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Params:
    """Return ``views``; those that equal a tensor in ``like`` bit for bit use its memory, the others are copied."""
    return {key: like[key] if key in like and _equal(like[key], view) else view.clone() for key, view in views.items()}


def _equal(x: Tensor, y: Tensor) -> bool:
    if (x.dtype, x.shape, x.device) != (y.dtype, y.shape, y.device):
        return False
    return torch.equal(*(t.detach().contiguous().flatten().view(torch.uint8) for t in (x, y)))

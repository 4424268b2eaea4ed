"""A worker: a process of Ray that is built once with the model and the data, and trains parts of a cohort."""

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
from fedloru.client import Job
from fedloru.engine.ray.cluster import library
from fedloru.engine.ray.packing import Packed, pack, unpack, unpack_shared
from fedloru.engine.setup import Chosen, Setup
from fedloru.engine.task import Engine, Outcome, Task
from fedloru.errors import FedloruError, ModelError, sentence, traced
from fedloru.method import Down, Method, Profile, State, Up
from fedloru.methods import rebuild
from fedloru.net import Net
from fedloru.recipe import Recipe
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
            raise FedloruError(
                f"a worker of Ray has {got}, but the run has {expected}: install the same on all machines"
            )
        if Path(self.directory).is_dir():
            os.chdir(self.directory)
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        torch.set_num_threads(1)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.mkldnn.enabled = self.onednn  # type: ignore[assignment]  # torch declares a property


class Blueprint(NamedTuple):
    """What a worker is built from; ``net`` is a reference to a net whose only tensors are those of its module."""

    net: Any
    params: dict[str, Packed]
    buffers: dict[str, Packed]
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
    """What all parts of a round have in common; ``state`` is packed, and has no base."""

    state: Any
    recipe: Recipe
    seed: int
    run: str
    codec: str
    measured: bool
    observed: bool


class Result(NamedTuple):
    """What came of one part; ``messages`` are empty unless the round is observed."""

    outcome: Outcome
    accounts: dict[Profile, Traffic]
    messages: list[Message]


class Worker:
    """An actor of Ray; ``prepare`` is called once, before ``train``."""

    net: Net
    method: Method
    engine: Engine
    device: str

    def __init__(self) -> None:
        self._base: tuple[str, Params] = ("", {})

    def prepare(self, process: Process, blueprint: Sequence[Any]) -> None:
        """Build the engine; the list holds a reference to the blueprint.

        Raises:
            FedloruError: this process has other libraries, or cannot load the model or the method.
        """
        process.enter()
        try:
            given: Blueprint = library().get(blueprint[0])
            net: Net = library().get(given.net)
        except Exception as error:  # unpickling runs code of the user
            reason = getattr(error, "client_exc", error)
            raise ModelError(
                f"a worker of Ray cannot load the model ({sentence(reason)}): every machine of the cluster must be "
                "able to import its modules"
            ) from error
        self.device = given.device
        setup = _setup(given, net)
        self.net, self.method, self.engine = setup.net, setup.method, given.build(setup).run

    def train(self, base: Sequence[Any], round: Round, jobs: Any) -> Any:
        """Train ``jobs`` and return their ``Result``, both packed; ``base`` holds a reference.

        Raises:
            FedloruError: a client failed, or code of the user.
        """
        try:
            state = unpack(round.state, self.device)._replace(base=self._current_base(base[0]))
            return pack(self._train(state, round, unpack(jobs, self.device)))
        except (FedloruError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a method of the user may raise anything
            number = round.state.round + 1
            raise FedloruError(f"round {number}: a worker of Ray failed: {traced(error)}; fix it") from error

    def _train(self, state: State, round: Round, jobs: Sequence[Job]) -> Result:
        channel = Channel(self.net, self.method.name, round.run, round.codec, round.measured)
        messages: list[Message] = []

        def observe(down: Down, ups: Sequence[Up], weights: Sequence[float]) -> None:
            if not messages or messages[-1][0] is not down:
                messages.append((down, [], []))
            messages[-1][1].extend(ups)
            messages[-1][2].extend(weights)

        task = Task(state, jobs, round.recipe, round.seed, channel, observe if round.observed else None)
        return Result(self.engine(task), dict(channel.accounts), messages)

    def _current_base(self, reference: Any) -> Params:
        """Return the base, which is fetched only if it has changed since the last call."""
        if self._base[0] != reference.hex():
            self._base = reference.hex(), unpack_shared(library().get(reference), self.net.params, self.device)
        return self._base[1]


def _setup(given: Blueprint, net: Net) -> Setup:
    """Return the arguments of the engine; tensors that are the same are in memory once."""
    model = net.model.to(given.device)
    params = tree.map(Tensor.detach, unpack_shared(given.params, dict(model.named_parameters()), given.device))
    net = net._replace(model=model, params=params, buffers=unpack(given.buffers, given.device))
    base = unpack_shared(given.state.base, params, given.device)
    state = unpack(given.state._replace(base={}), given.device)._replace(base=base)
    method = rebuild(given.method, given.config)
    data = unpack(given.data, given.device, copy=False)
    return Setup(net, method, state, data, given.recipe, given.chunk, given.path)

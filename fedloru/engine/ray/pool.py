"""A pool of workers, which trains the parts of a round and replaces the workers that are lost.

A worker is lost if its process or its machine dies. What it was training is trained again by the next worker that is
free; the result is the same, because every random draw depends only on the round and the client.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fedloru import lowrank
from fedloru.engine.parts.pool import ATTEMPTS, Part, report_lost
from fedloru.engine.parts.worker import Blueprint, Process, Result
from fedloru.engine.ray.cluster import capacity, join, leave, library
from fedloru.engine.ray.packing import pack, unpack
from fedloru.engine.ray.worker import Worker
from fedloru.errors import FedloruError, ModelError, sentence
from fedloru.net import Net

PATIENCE = 300.0
"""Seconds after which a cluster in which no worker starts is regarded as full."""

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
"""The pools of all runs of this process."""


class Pool:
    """Workers of a Ray cluster; ``parts`` is the number of parts into which a cohort is split.

    Raises:
        FedloruError: Ray cannot be reached.
    """

    def __init__(self, workers: int | None, device: torch.device) -> None:
        join(workers)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        weakref.finalize(self, _end, self._idle, self._starting)
        self._ray, self._device = library(), device
        room = capacity(device)
        self.parts = workers or room
        self._most = min(self.parts, room)
        self._actor = self._ray.remote(num_cpus=1, num_gpus=int(device.type == "cuda"), max_restarts=0)(Worker)
        self._blueprint: Any = None
        self._failed = 0
        self._place = ""
        _pools.add(self)

    def open(self, blueprint: Blueprint) -> None:
        """Start one worker that is built from ``blueprint``, which shows that the others can be built.

        Raises:
            FedloruError: it cannot load the model or the method.
        """
        self._blueprint = self._ray.put(blueprint)
        while not self._idle:
            self._start(1)
            self._wait({})

    def pack(self, value: Any) -> Any:
        """Return ``value`` as Ray sends it without pickling its tensors."""
        return pack(value)

    def share(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return a reference to ``tensors``, which workers fetch when they need them."""
        return self._ray.put(pack(dict(tensors)))

    def share_net(self, net: Net) -> Any:
        """Return a reference to ``net``.

        Raises:
            ModelError: its module cannot be pickled.
        """
        try:
            return self._ray.put(_bare(net))
        except Exception as error:  # pickling runs code of the user
            raise ModelError(
                f"the model cannot be sent to the workers of Ray ({sentence(_cause(error))}): remove what "
                "cannot be pickled from its modules, such as open files and locks, or use another engine"
            ) from error

    def train(self, base: Any, common: Any, parts: Sequence[Part], round: int) -> list[Result]:
        """Return the results of ``parts``, in order; ``base`` is a reference.

        Raises:
            FedloruError: a client failed, the first in order; or the workers of a part were lost repeatedly.
        """
        self._place, common = f"round {round}: ", self._ray.put(common)
        results: dict[int, Result | BaseException] = {}
        waiting, busy, lost = deque(range(len(parts))), dict[Any, tuple[Any, int]](), Counter[int]()
        try:
            while len(results) < len(parts):
                self._start(len(waiting) - len(self._idle), len(busy))
                while waiting and self._idle:
                    worker, index = self._idle.pop(), waiting.popleft()
                    busy[worker.train.remote([base], common, parts[index].jobs)] = worker, index
                for reference in self._wait(busy):
                    worker, index = busy.pop(reference)
                    try:
                        results[index] = unpack(self._ray.get(reference), self._device)
                    except self._ray.exceptions.RayTaskError as error:
                        results[index] = error.cause
                    except self._ray.exceptions.RayError as error:
                        lost[index] += 1
                        report_lost(parts[index], lost[index], round, sentence(error))
                        waiting.appendleft(index)
                        continue
                    self._idle.append(worker)
        except BaseException:  # an interrupted round, whose workers are still busy with it
            _dismiss([worker for worker, _ in busy.values()], {})
            raise
        return [_raised(results[index]) for index in range(len(parts))]

    def _start(self, wanted: int, busy: int = 0) -> None:
        """Start workers until ``wanted`` are starting, or there are as many as the cluster has room for."""
        wanted = min(wanted, self._most - len(self._idle) - busy)
        if len(self._starting) < wanted:
            for other in set(_pools) - {self}:  # their workers would keep the CPUs
                _dismiss(other._idle, other._starting)
        while len(self._starting) < wanted:
            worker = self._actor.remote()
            self._starting[worker.prepare.remote(Process.this(), [self._blueprint])] = worker

    def _wait(self, busy: Mapping[Any, Any]) -> list[Any]:
        """Wait until a call in ``busy`` has ended or a worker has started; return the calls that have ended."""
        ready, _ = self._ray.wait([*busy, *self._starting], timeout=PATIENCE)
        if not ready and not busy:
            raise FedloruError(
                f"{self._place}no worker of Ray has started within {PATIENCE:g} seconds: the cluster has no free "
                f"{'GPU' if self._device.type == 'cuda' else 'CPU'}; wait for its other jobs, or lower engine.workers"
            )
        for reference in ready:
            if reference in self._starting:
                self._welcome(reference)
        return [reference for reference in ready if reference in busy]

    def _welcome(self, reference: Any) -> None:
        """Add a worker that has started to the idle ones."""
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            _raised(error.cause)
        except self._ray.exceptions.RayError as error:
            self._failed += 1
            if self._failed == ATTEMPTS:
                raise FedloruError(f"{self._place}no worker of Ray can be started: {sentence(error)}") from error
        else:
            self._failed = 0
            self._idle.append(worker)


def _end(idle: list[Any], starting: dict[Any, Any]) -> None:
    """End the workers of a pool, and its use of Ray."""
    _dismiss(idle, starting)
    leave()


def _dismiss(idle: list[Any], starting: dict[Any, Any]) -> None:
    """End the workers that are idle or starting."""
    if library().is_initialized():
        for worker in (*idle, *starting.values()):
            library().kill(worker)
    idle.clear()
    starting.clear()


def _bare(net: Net) -> Net:
    """Return ``net`` with its module on the CPU, and without its other tensors."""
    devices = {tensor.device.type for tensor in chain(net.model.parameters(), net.model.buffers())}
    model = net.model if devices <= {"cpu"} else lowrank.shallow_copy(net.model, trained=False).to("cpu")
    return net._replace(model=model, params={}, buffers={})


def _cause(error: Exception) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, Exception) else error


def _raised(result: Any) -> Any:
    """Return ``result``, or raise it if it is an exception."""
    if isinstance(result, BaseException):
        raise result
    return result

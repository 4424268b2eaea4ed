"""Starts processes, and gives them the parts of a round; a process that is lost is replaced.

The next process trains what the lost one was training. The result is the same, because every random draw depends only
on the round and the client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from fedloru.engine.local.frames import read, write
from fedloru.engine.parts.pool import ATTEMPTS, Part, report_lost
from fedloru.engine.parts.worker import Blueprint, Process, Result
from fedloru.errors import ConfigError, FedloruError
from fedloru.net import Net, Source

SETTING = "engine.workers"
CODE = "import sys; sys.path.extend({path!r}); from fedloru.engine.local.process import main; main()"
T = TypeVar("T")
PATIENCE = 5.0
"""Seconds in which an idle process has to end by itself."""


class _LostError(Exception):
    """A process has ended, or its pipe is closed."""


class _Handle:
    """A process, and its calls."""

    def __init__(self) -> None:
        code = CODE.format(path=[entry for entry in sys.path if entry])
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | one_thread,
        )

    def call(self, *values: Any) -> Any:
        """Return the answer to a call.

        Raises:
            _LostError: the process has ended.
            FedloruError: the call failed.
        """
        assert self.process.stdin and self.process.stdout
        try:
            write(self.process.stdin, values)
            answer = read(self.process.stdout)
        except (EOFError, OSError, ValueError) as error:  # ValueError: the pipe was closed
            raise _LostError(f"it ended with the exit code {self.process.wait()}") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self, *, kill: bool = False) -> None:
        """End the process; unless ``kill``, it may finish by itself."""
        if kill:
            self.process.kill()
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.close()
            self.process.wait(PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Pool:
    """Workers of this machine; ``parts`` is their number.

    Raises:
        ConfigError: the device is not the CPU.
    """

    def __init__(self, workers: int, device: torch.device) -> None:
        if device.type != "cpu":
            raise ConfigError(
                [f"workers is {workers}, but the device is {str(device)!r}: only CPUs are shared; leave workers out"],
                SETTING,
            )
        self.parts = workers
        self._all: set[_Handle] = set()
        self._idle: list[_Handle] = []
        self._blueprint: tuple[Process, Blueprint] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="fedloru-", ignore_cleanup_errors=True)
        self._numbers = count()
        self._base = ""
        self._interrupted = False
        weakref.finalize(self, _end, self._all, self._folder)

    def pack(self, value: Any) -> Any:
        """Return ``value``: frames hold tensors."""
        return value

    def share(self, tensors: Mapping[str, Tensor]) -> str:
        """Write ``tensors`` to a file that all processes map into memory, and return its path."""
        path = Path(self._folder.name) / f"{next(self._numbers)}.safetensors"
        own = {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
        safetensors.torch.save_file(own, path)
        return str(path)

    def share_net(self, net: Net) -> Source:
        """Return how ``net`` is made again.

        Raises:
            ConfigError: it was not made from a configuration.
        """
        if net.source is None:
            raise ConfigError(
                [
                    f"workers is {self.parts}, but a model that was made in Python cannot be made again in another "
                    "process: start the run from a configuration (fedloru.start), use the engine 'ray', or leave "
                    "workers out"
                ],
                SETTING,
            )
        return net.source

    def open(self, blueprint: Blueprint) -> None:
        """Start as many workers as there are CPUs; others start when a round has a part for them.

        Raises:
            FedloruError: one cannot make the model or the method, or ends.
        """
        self._blueprint = Process.this(), blueprint
        self._idle = self._together([self._started] * min(self.parts, os.cpu_count() or 1))

    def train(self, base: str, common: Any, parts: Sequence[Part], round: int) -> list[Result]:
        """Return the results of ``parts``, in order.

        Raises:
            FedloruError: a client failed, the first in order; or the workers of a part were lost repeatedly.
        """
        if self._base != base:
            with suppress(OSError):
                Path(self._base).unlink()
            self._base = base
        return self._together([partial(self._trained, base, common, part, round) for part in parts])

    def _together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of ``calls``, each made in a thread; an interruption ends all processes."""
        self._interrupted = False
        with ThreadPoolExecutor(self.parts) as threads:
            try:
                return [future.result() for future in [threads.submit(call) for call in calls]]
            except BaseException as error:
                if not isinstance(error, Exception):
                    self._interrupted = True
                    self._end_all()
                raise

    def _end_all(self) -> None:
        for worker in tuple(self._all):
            worker.process.kill()
        self._all.clear()
        self._idle.clear()

    def _trained(self, base: str, common: Any, part: Part, round: int) -> Result:
        for lost in range(1, ATTEMPTS + 1):
            worker = self._free()
            try:
                result: Result = worker.call("train", base, common, part.jobs)
            except _LostError as error:
                self._all.discard(worker)
                worker.end(kill=True)
                if self._interrupted:
                    raise
                report_lost(part, lost, round, str(error))
            except BaseException:
                self._idle.append(worker)
                raise
            else:
                self._idle.append(worker)
                return result
        raise AssertionError("report_lost raises after the last attempt")

    def _free(self) -> _Handle:
        with suppress(IndexError):  # none is idle
            return self._idle.pop()
        return self._started()

    def _started(self) -> _Handle:
        worker = _Handle()
        self._all.add(worker)
        try:
            worker.call("prepare", *(self._blueprint or ()))
        except _LostError as error:
            raise FedloruError(f"a worker ended while it started ({error}): is there enough memory?") from error
        return worker


def _end(workers: set[_Handle], folder: tempfile.TemporaryDirectory[str]) -> None:
    """End all processes, and remove their files."""
    for worker in workers:
        worker.end()
    folder.cleanup()

"""What runs in a process: it answers the calls on its standard input, until that is closed."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fedloru.engine.local.frames import read, write
from fedloru.engine.parts.worker import Blueprint, Process, Round, Trainer, shared
from fedloru.errors import FedloruError, traced
from fedloru.net import Net, Source
from fedloru.reading import UnreadableError
from fedloru.tree import Params


class Worker:
    """A worker; ``prepare`` is called once, before ``train``."""

    trainer: Trainer

    def __init__(self) -> None:
        self._base: tuple[str, Params] = ("", {})

    def prepare(self, process: Process, blueprint: Blueprint) -> None:
        """Make the model and the engine.

        Raises:
            FedloruError: the model or the method cannot be made.
        """
        process.enter()
        data = safetensors.torch.load_file(blueprint.data)
        self.trainer = Trainer(blueprint._replace(net=_made(blueprint.net, data, blueprint.params), data=data))

    def train(self, base: str, round: Round, jobs: Any) -> Any:
        """Train ``jobs`` from the base in the file ``base``, which is read only if it is another than before.

        Raises:
            FedloruError: a client failed, or code of the user.
        """
        if self._base[0] != base:
            self._base = base, shared(safetensors.torch.load_file(base), self.trainer.net.params)
        return self.trainer.train(self._base[1], round, jobs)


def _made(source: Source, data: Params, params: Mapping[str, Any]) -> Net:
    module, _, function = source.function.partition(":")
    net: Net = getattr(import_module(module), function)(data, **source.settings)
    if net.params.keys() != params.keys():
        raise FedloruError("a worker made another model than the run: its code changed, or it depends on more than it")
    return net


def main() -> None:
    """Answer calls until the standard input is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to all processes, and the first one ends the others
    logging.getLogger("fedloru").addHandler(logging.NullHandler())
    logging.getLogger("fedloru").propagate = False
    calls, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("w") as nowhere:  # what a model prints must not get between the results
        os.dup2(nowhere.fileno(), 1)
    worker = Worker()
    while True:
        try:
            name, *arguments = read(calls)
            write(results, _answer(worker, name, arguments))
        except (EOFError, OSError, UnreadableError):
            os._exit(0)  # the run has ended; there is nothing to clean up


def _answer(worker: Worker, name: str, arguments: list[Any]) -> Any:
    try:
        return worker.train(*arguments) if name == "train" else worker.prepare(arguments[0], arguments[1])
    except (FedloruError, torch.OutOfMemoryError) as error:
        return error
    except Exception as error:  # code of the user may raise anything
        return FedloruError(f"a worker failed: {traced(error)}; fix it")

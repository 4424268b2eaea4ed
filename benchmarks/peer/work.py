"""The work that ``peers.py`` gives to every driver, and the clock that measures it.

A driver runs in the environment of its library, so this file and ``networks.py`` import nothing but numpy and torch. A
driver reads the path of a piece of work from its standard input, does the work, and answers with one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from networks import build
from torch import Tensor, nn


class Work(NamedTuple):
    """A federated training run: every driver starts from these tensors and visits these clients.

    Attributes:
        folder: where the work is stored.
        settings: the settings of the workload: model, rank, scale, lr, batch, eval_batch.
        x: (N, …) training examples, with their classes ``y`` (N,).
        test_x: (n, …) test examples, with their classes ``test_y`` (n,).
        clients: the rows of ``x`` that each client holds.
        cohorts: the clients of each round.
        initial: the initial weights by name, with the factors of low-rank layers.
        trained: the names of the weights that clients train and the server averages.
    """

    folder: Path
    settings: dict[str, Any]
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    clients: list[Tensor]
    cohorts: list[list[int]]
    initial: dict[str, Tensor]
    trained: list[str]

    def model(self) -> nn.Module:
        """Return the model with its initial weights; those that are not trained are frozen."""
        model = build(self.settings)
        model.load_state_dict(self.initial)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.trained)
        return model

    def order(self, round: int, client: int) -> Tensor:
        """Return the rows of ``client`` in the order of its local epoch in ``round``, counted from 1."""
        name = repr((0, "batches", round, client)).encode()
        seed = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
        rows = self.clients[client]
        return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]

    def trained_model(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return the model, and plain SGD over its trained weights."""
        model = self.model()
        return model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=self.settings["lr"])


def load(folder: Path) -> Work:
    """Read the work in ``folder``, as ``peers.py`` has written it."""
    described = json.loads((folder / "work.json").read_text())
    with np.load(folder / "arrays.npz") as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    initial = {n.removeprefix("initial/"): t for n, t in tensors.items() if n.startswith("initial/")}
    clients = list(tensors["rows"].split(described["sizes"]))
    data = [tensors[name] for name in ("x", "y", "test_x", "test_y")]
    return Work(folder, described["settings"], *data, clients, described["cohorts"], initial, described["trained"])


class Clock:
    """Evaluates the model after every round, and notes the CPU seconds that the process has used so far.

    ``cpu`` returns these seconds; a driver that starts other processes passes a function that includes them.
    """

    def __init__(self, work: Work, cpu: Callable[[], float] = time.process_time) -> None:
        self.work, self.cpu = work, cpu
        self.seconds: list[float] = []
        self.evaluation: list[float] = []
        self.accuracy: list[float] = []

    @torch.no_grad()
    def round(self, model: nn.Module) -> None:
        """Score ``model`` on all test examples: the round is over."""
        start, work, size = time.process_time(), self.work, self.work.settings["eval_batch"]
        model.eval()
        right = loss = 0.0
        for x, y in zip(work.test_x.split(size), work.test_y.split(size), strict=True):
            outputs = model(x)
            right += (outputs.argmax(1) == y).sum().item()
            loss += F.cross_entropy(outputs, y, reduction="sum").item()
        model.train()
        self.evaluation.append(time.process_time() - start)
        self.note(right / len(work.test_y))

    def note(self, accuracy: float) -> None:
        """Note the accuracy and the time at the end of a round."""
        self.accuracy.append(accuracy)
        self.seconds.append(self.cpu())


def serve(run: Callable[[Work, Clock], None], cpu: Callable[[], float] = time.process_time) -> None:
    """Do the work that is named on standard input, line by line, with ``run``.

    What libraries print goes to standard error; each answer is a line of JSON on standard output.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            work = load(Path(line.strip()))
            clock = Clock(work, cpu)
            run(work, clock)
            noted = {"seconds": clock.seconds, "evaluation": clock.evaluation, "accuracy": clock.accuracy}
            answer: dict[str, Any] = noted
        except Exception as error:  # a library may raise anything
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)

"""The workloads of ``peers.py``, as plans of the library, and as files for drivers that do not import it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedloru as fl
from fedloru.run.plan import Plan
from fedloru.run.sampling import cohort

try:
    from peer.networks import Encoder
except ModuleNotFoundError:  # in a driver, which starts in this folder
    from networks import Encoder


class Workload(NamedTuple):
    """One column of the table.

    Attributes:
        title: the heading of the column.
        model: the name of the model.
        cohort: the clients of a round, each with ``examples`` training examples.
        clients: the number of all clients.
        rank: the rank of the factors; 0: FedAvg trains all weights.
        targets: globs of the layers with factors.
        rounds: the rounds of a run, of which the first ``warm`` are not measured.
        lr: the learning rate of plain SGD.
        dense: globs of the trained weights without factors.
        eval_batch: the test examples that drivers evaluate at once, the faster of 100 and 1,000.
    """

    title: str
    model: str
    clients: int
    cohort: int
    rank: int = 0
    targets: tuple[str, ...] = ()
    rounds: int = 5
    warm: int = 1
    lr: float = 0.1
    batch: int = 10
    examples: int = 80
    eval_batch: int = 100
    dense: tuple[str, ...] = ("*",)


MLP = Workload("MLP FedAvg", "mlp", 50, 10, rounds=25, warm=5, eval_batch=1000)
MLP_LORA = MLP._replace(title="MLP FedLoRA", rank=4, targets=("fc1",), lr=0.05)
MANY = {"clients": 100, "cohort": 50, "examples": 40}
CNN = Workload("CNN FedAvg", "cnn", 50, 10)
ENCODER_TARGETS = ("*.query", "*.value")
RESNET = Workload("ResNet-10 FedAvg", "resnet10", 50, 10, rounds=3, examples=40)
WORKLOADS = {
    "mlp-fedavg": MLP,
    "mlp-fedlora": MLP_LORA,
    "mlp-fedavg-50": MLP._replace(title="MLP FedAvg, 50 of 100", **MANY),
    "mlp-fedlora-50": MLP_LORA._replace(title="MLP FedLoRA, 50 of 100", **MANY),
    "cnn-fedavg": CNN,
    "cnn-fedlora": CNN._replace(title="CNN FedLoRA", rank=4, targets=("conv2", "fc1")),
    "resnet-fedavg": RESNET,
    "resnet-fedlora": RESNET._replace(title="ResNet-10 FedLoRA", rank=16, targets=("layer*",)),
    "encoder-fedlora": Workload(
        "MiniLM FedLoRA, batch 4",
        "encoder",
        8,
        4,
        8,
        ENCODER_TARGETS,
        rounds=3,
        batch=4,
        examples=16,
        dense=("head.*",),
    ),
}
SIZES = {"mlp": 28, "cnn": 28, "resnet10": 32}
TOKENS = 12


@cache
def digits(size: int, examples: int) -> fl.data.Dataset:
    """Return ``examples`` training and 1,000 test digits of MNIST; if ``size`` is 32, padded and with 3 channels."""
    found = fl.data.load("mnist5k")
    train = {key: value[:examples] for key, value in found.train.items()}
    return found._replace(train=_padded(train, size), test=_padded(found.test, size))


def _padded(data: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    x = data["x"]
    edge = (size - x.shape[-1]) // 2
    if edge:
        x = F.pad(x, (edge,) * 4).expand(-1, 3, -1, -1).contiguous()
    return {"x": x, "y": data["y"]}


@cache
def tokens(workload: Workload) -> fl.data.Dataset:
    """Return random tokens of the classes of MNIST: what is compared is only whether the accuracies are the same."""
    generator = torch.Generator().manual_seed(0)
    train, test = (
        {
            "x": torch.randint(30522, (count, TOKENS), generator=generator),
            "y": torch.randint(10, (count,), generator=generator),
        }
        for count in (_examples(workload), 100)
    )
    return fl.data.Dataset("random tokens", train, test, tuple("0123456789"))


def _examples(workload: Workload) -> int:
    return workload.clients * workload.examples


def _model(workload: Workload) -> nn.Module:
    if workload.model == "encoder":
        torch.manual_seed(0)
        return Encoder()
    size = SIZES[workload.model]
    width = {"width": 16} if workload.model == "resnet10" else {}
    return fl.models.build(workload.model, channels=3 if size == 32 else 1, size=size, classes=10, seed=0, **width)


def plan(name: str, rounds: int, engine: str = "auto") -> Plan:
    """Return the plan of a workload, with the library's defaults for everything but the local training."""
    workload = WORKLOADS[name]
    data = tokens(workload) if workload.model == "encoder" else digits(SIZES[workload.model], _examples(workload))
    model = _model(workload)
    net = fl.make(model)
    if workload.rank:
        net = fl.attach(model, rank=workload.rank, targets=workload.targets, dense=workload.dense)
    recipe = fl.Recipe(lr=workload.lr, momentum=0.0, clip=0, schedule="constant", batch_size=workload.batch)
    method = fl.fedlora() if workload.rank else fl.fedavg()
    partition = fl.data.iid(data, workload.clients)
    return Plan(
        net, method, data, partition, rounds=rounds, cohort=workload.cohort, recipe=recipe, engine=engine, threads=1
    )


def write(name: str, rounds: int, folder: Path) -> Path:
    """Write a workload of ``rounds`` rounds for the drivers, and return its folder."""
    workload, made = WORKLOADS[name], plan(name, rounds)
    first = made.method.init(made.net, made.seed)
    settings: dict[str, Any] = {
        "workload": name,
        "model": workload.model,
        "rank": workload.rank,
        "scale": made.net.sites[0].scale if made.net.sites else 0.0,
        "targets": [site.weight.removesuffix(".weight") for site in made.net.sites],
        "lr": workload.lr,
        "batch": workload.batch,
        "eval_batch": workload.eval_batch,
    }
    described = {
        "settings": settings,
        "sizes": [len(rows) for rows in made.partition.train],
        "cohorts": [cohort(made, round) for round in range(1, rounds + 1)],
        "trained": sorted(first.shared),
    }
    data = {"x": made.dataset.train["x"], "y": made.dataset.train["y"]}
    data |= {"test_x": made.dataset.test["x"], "test_y": made.dataset.test["y"]}
    data |= {f"initial/{key}": value for key, value in (first.base | first.shared).items()}
    arrays = {key: value.numpy() for key, value in data.items()}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "arrays.npz", rows=np.concatenate([rows.numpy() for rows in made.partition.train]), **arrays)
    (folder / "work.json").write_text(json.dumps(described))
    return folder

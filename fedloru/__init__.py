"""Federated training by low-rank updates: FedLoRU and its peers.

Ten lines train a model over simulated clients::

    import fedloru as fl

    digits = fl.data.load("digits")
    clients = fl.data.dirichlet(digits, clients=10, alpha=0.5)
    model = fl.models.build("mlp", channels=1, size=8, classes=10, seed=0)
    net = fl.attach(model, rank=4, targets=["fc1"])
    for row in fl.run(net, fl.fedloru(tau=10), digits, clients, rounds=30, cohort=5):
        print(row["round"], row["test_accuracy"])

``attach`` gives a model low-rank factors, and ``make`` takes it as it is; ``hf`` does both with language models. A
method (``fedavg``, ``fedlora``, ``fedloru``, …) is a value that wrappers (``prox``, ``scaffold``, ``server_opt``,
``clip``) change; ``Recipe`` says how clients train. ``run`` makes a run of these, ``start`` one of a configuration, and
``resume`` continues one from its folder. ``export`` takes home what a run has learnt.
"""

import os
from importlib.metadata import version

# Threads that spin while they wait starve each other on a busy machine. OpenMP
# reads this when torch is loaded, so it is said before; whoever sets it otherwise is left alone.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from fedloru import config, data, hf, models
from fedloru.api import resume, run, start
from fedloru.errors import FedloruError
from fedloru.exports import export
from fedloru.methods import (
    clip,
    fedavg,
    fedex,
    fedhm,
    fedlmt,
    fedlora,
    fedloru,
    fedmud,
    fedpara,
    fedsa,
    ffalora,
    flexlora,
    flora,
    hetlora,
    prox,
    rolora,
    scaffold,
    server_opt,
)
from fedloru.net import Net, attach, make
from fedloru.recipe import Recipe
from fedloru.run.loop import Run

__version__ = version("fedloru")

__all__ = [
    "FedloruError",
    "Net",
    "Recipe",
    "Run",
    "__version__",
    "attach",
    "clip",
    "config",
    "data",
    "export",
    "fedavg",
    "fedex",
    "fedhm",
    "fedlmt",
    "fedlora",
    "fedloru",
    "fedmud",
    "fedpara",
    "fedsa",
    "ffalora",
    "flexlora",
    "flora",
    "hetlora",
    "hf",
    "make",
    "models",
    "prox",
    "resume",
    "rolora",
    "run",
    "scaffold",
    "server_opt",
    "start",
]

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
``clip``, ``robust``) change; ``Recipe`` says how clients train. ``run`` makes a run of these, ``start`` one of a
configuration, and ``resume`` continues one from its folder. ``export`` writes the trained model. A method of yours is
composed from ``blocks``, declared with ``methods.method`` and checked with ``check``.
"""

from fedloru import launch as _launch  # noqa: F401  # before any other import

# isort: split
from importlib.metadata import version

from fedloru import config, data, hf, methods, models
from fedloru.api import resume, run, start
from fedloru.errors import FedloruError
from fedloru.exports import export
from fedloru.laws import check
from fedloru.method import Down, Method, Phase, Profile, State, Total, Traits, Up, Values
from fedloru.methods import blocks
from fedloru.methods.catalogue import *  # noqa: F403  # every method
from fedloru.methods.wrappers.catalogue import *  # noqa: F403  # every wrapper
from fedloru.net import Net, attach, make
from fedloru.recipe import Recipe
from fedloru.run.loop import Run

__version__ = version("fedloru")

__all__ = [
    "Down",
    "FedloruError",
    "Method",
    "Net",
    "Phase",
    "Profile",
    "Recipe",
    "Run",
    "State",
    "Total",
    "Traits",
    "Up",
    "Values",
    "__version__",
    "attach",
    "blocks",
    "check",
    "config",
    "data",
    "export",
    "hf",
    "make",
    "methods",
    "models",
    "resume",
    "run",
    "start",
    *methods.METHODS,
    *methods.WRAPPERS,
]

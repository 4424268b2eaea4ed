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

The names are imported on first use, so that ``fedloru --help`` need not import torch.
"""

from fedloru import launch as _launch  # noqa: F401  # before any other import

# isort: split
import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedloru.public import *  # noqa: F403

__version__ = version("fedloru")


class _Package(ModuleType):
    """The package; ``fedloru.run`` is the function, also after the subpackage of that name has been imported."""

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return [*import_module("fedloru.public").__all__, "__version__"]
        if not name.startswith("__"):
            if name != "run" and find_spec(f"fedloru.{name}"):
                return import_module(f"fedloru.{name}")
            public = import_module("fedloru.public")
            if name in public.__all__:
                return getattr(public, name)
        raise AttributeError(f"module 'fedloru' has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if (name, type(value)) != ("run", ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__all__})


sys.modules[__name__].__class__ = _Package

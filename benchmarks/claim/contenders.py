"""The methods that compete, one line each, and the federations in which they do."""

from __future__ import annotations

from typing import Any, NamedTuple

from fedloru.data import Dataset, Partition, schemes
from fedloru.method import Method
from fedloru.methods import METHODS
from fedloru.wire import CODECS

BASELINE, RECOMMENDED = "fedavg", "fedloru"
"""The contenders with which all others are compared."""


FEWEST = 16
"""The examples that a natural client must have."""


class Contender(NamedTuple):
    """A method to compare. ``stages`` are the two stages of tuning after that of the learning rate.

    ``cycle`` is the setting that a stage of cycles changes, and ``ranked`` whether the method has a rank.
    """

    label: str
    method: str
    stages: tuple[str, str] = ("scale", "fine")
    settings: dict[str, Any] = {}
    cycle: str = ""
    codec: str = "fp32"
    ranked: bool = True

    @property
    def available(self) -> bool:
        """Whether the installed package has the method and the codec."""
        return self.method in METHODS and self.codec in CODECS

    def make(self, cycle: int | None) -> Method:
        """Return the method with a cycle in rounds, or with its default cycle."""
        return METHODS.find(self.method)(**self.settings, **({} if cycle is None else {self.cycle: cycle}))


DENSE = ("fine", "finer")
"""The stages of methods whose factors stand for the whole weight, where a scale only multiplies the rate."""

PAPER = {"recipe": "paper"}

CONTENDERS = {
    "fedavg": Contender("FedAvg", "fedavg", DENSE, ranked=False),
    "fedavg-int8": Contender("FedAvg, int8", "fedavg", DENSE, codec="int8", ranked=False),
    "fedlora": Contender("FedLoRA", "fedlora"),
    "fedlora-int4": Contender("FedLoRA, int4", "fedlora", codec="int4"),
    "fedhm": Contender("FedHM", "fedhm", DENSE),
    "fedpara": Contender("FedPara", "fedpara", DENSE),
    "fedlmt": Contender("FedLMT", "fedlmt", DENSE),
    "fedmud": Contender("FedMUD + AAD", "fedmud", ("scale", "cycle"), cycle="interval"),
    "fedloru-paper": Contender("FedLoRU as published, τ = T/4", "fedloru", settings=PAPER),
    "fedloru-paper-best": Contender(
        "FedLoRU as published, best τ", "fedloru", ("scale", "cycle"), settings=PAPER, cycle="tau"
    ),
    "fedloru": Contender("FedLoRU", "fedloru"),
    "fedloru-int8": Contender("FedLoRU, int8", "fedloru", codec="int8"),
    "fedloru-int4": Contender("FedLoRU, int4", "fedloru", codec="int4"),
    "fedloru-dense": Contender("FedLoRU, dense local steps", "fedloru", DENSE, settings={"local": "dense"}),
}


class Federation(NamedTuple):
    """A task, and which clients there are. ``alpha`` is that of a Dirichlet partition, and 0 for others."""

    task: str
    clients: int
    cohort: int
    scheme: str = "iid"
    alpha: float = 0.0

    @property
    def title(self) -> str:
        """The partition and the share of clients that take part, in words."""
        scheme = {"iid": "IID", "dirichlet": f"Dirichlet {self.alpha:g}", "natural": "natural clients"}[self.scheme]
        return f"{scheme}, {self.cohort} of {self.clients}"

    def partition(self, data: Dataset, key: str, seed: int) -> Partition:
        """Return the clients; ``key`` is the column of natural ones, of which small ones are left out."""
        if self.scheme == "natural":
            return schemes.natural(data, key, seed, min_examples=FEWEST, allow_unused=True)
        if self.scheme == "dirichlet":
            return schemes.dirichlet(data, self.clients, self.alpha, seed)
        return schemes.iid(data, self.clients, seed)

"""A worker of Ray: an actor that is built once with the model and the data, and trains parts of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedloru.engine.parts.worker import Blueprint, Process, Trainer, shared
from fedloru.engine.ray.cluster import library
from fedloru.engine.ray.packing import pack, unpack
from fedloru.errors import ModelError, sentence
from fedloru.net import Net
from fedloru.tree import Params


class Worker:
    """An actor of Ray; ``prepare`` is called once, before ``train``."""

    trainer: Trainer
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
        state = unpack(given.state._replace(base={}), self.device)
        base = unpack(given.state.base, self.device, copy=False)
        self.trainer = Trainer(
            given._replace(
                net=net,
                params=unpack(given.params, self.device, copy=False),
                buffers=unpack(given.buffers, self.device),
                state=state._replace(base=base),
                data=unpack(library().get(given.data), self.device, copy=False),
            )
        )

    def train(self, base: Sequence[Any], round: Any, jobs: Any) -> Any:
        """Train ``jobs`` and return their ``Result``, both packed; ``base`` holds a reference.

        Raises:
            FedloruError: a client failed, or code of the user.
        """
        given = (unpack(value, self.device) for value in (round, jobs))
        return pack(self.trainer.train(self._current_base(base[0]), *given))

    def _current_base(self, reference: Any) -> Params:
        """Return the base, which is fetched only if it has changed since the last call."""
        if self._base[0] != reference.hex():
            views = unpack(library().get(reference), self.device, copy=False)
            self._base = reference.hex(), shared(views, self.trainer.net.params)
        return self._base[1]

"""What a client trains: its own data, and the model of the federation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from fedloru import tree
from fedloru.config import Config, parse
from fedloru.config.parts import parts, recipe_of
from fedloru.config.plan import examples, split
from fedloru.config.trial import try_out
from fedloru.data import Dataset, Examples, Partition, size
from fedloru.data.dataset import Scaling
from fedloru.errors import ConfigError, DataError, ModelError, listed, quoted
from fedloru.flower.protocol import Hello
from fedloru.net import precision_problem
from fedloru.reading import UnreadableError, read_toml
from fedloru.recipe import Recipe
from fedloru.run.plan import Plan, on_device

PRIVATE = ("data", "partition", "output", "track", "federation", "engine", "cohort", "eval", "aggregation")
"""The sections of a configuration that clients do not receive."""
PLACES = ("path", "test")
"""The settings of [data] that say where the data is."""


class Source(NamedTuple):
    """Where a client's data and model are.

    Args:
        data: a file or folder that is read like the server's data, or a TOML file with its own section [data].
        part: the number of the part of the partition in that TOML file that the client holds; None: all examples.
        model: the folder or the name of the language model; by default that of the server.
        device: the torch device on which the client trains.
    """

    data: Path
    part: int | None = None
    model: str | None = None
    device: str = "cpu"


class Site(NamedTuple):
    """The examples of a client, those that it is tested on, and the model in its initial state."""

    config: Config
    plan: Plan
    rows: torch.Tensor
    tests: Examples
    run: str

    @property
    def recipe(self) -> Recipe:
        """The settings of local training."""
        return self.plan.recipe

    @property
    def epochs(self) -> float:
        """The number of passes over the client's examples in a round, in all phases of local training together."""
        net, method, recipe = self.plan.net, self.plan.method, self.recipe
        one = recipe.epochs if recipe.steps is None else recipe.steps * recipe.batch_size / len(self.rows)
        if method.phases is None:
            return one
        start = method.begin(net, method.down(net, method.init(net, 0), ()), {}, ())
        return sum(one if phase.epochs is None else phase.epochs for phase in method.phases(net, start))


def build(source: Source, hello: Hello) -> Site:
    """Load the data, and build the model.

    Raises:
        FedloruError: the data or the model cannot be created as configured, or the data differs from the server's in
            its columns, shapes or classes.
    """
    config = configured(source, hello)
    if source.part is None:
        dataset = aligned(examples(config), hello)
        partition = Partition("own", 0, (torch.arange(size(dataset.train)),), (), {})
        rows, tests = partition.train[0], dataset.test
    else:
        dataset, partition = split(config)
        dataset = aligned(dataset, hello)
        rows, tests = _part(dataset, partition, source.part)
    net, method = parts(config, dataset, hello.clients)
    try_out(net, dataset, Partition("own", 0, (rows,), (), {}), recipe_of(config))
    plan = Plan(net, method, dataset, partition, rounds=hello.rounds, recipe=recipe_of(config), device=source.device)
    if problem := precision_problem(plan.recipe.precision, torch.device(source.device), net.params):
        raise ConfigError([problem])
    plan = on_device(plan.replace(codec=config.wire.codec))
    return Site(config, plan, rows, tree.to(tests, source.device), tree.digest(plan.net.params))


def configured(source: Source, hello: Hello) -> Config:
    """Return the configuration of the server with the data of the client.

    Raises:
        ConfigError: the file of the client cannot be read, or the configuration has problems.
    """
    table = {name: value for name, value in hello.config.items() if name not in PRIVATE} | {"cohort": {"size": 1}}
    if source.model is not None:
        table["model"] = {**table.get("model", {}), "name": f"hf:{source.model}", "revision": None}
        table["model"].pop("revision")
    if source.data.suffix == ".toml":
        table |= _own_sections(source)
    else:
        reading = {name: value for name, value in hello.reading.items() if name not in PLACES}
        if "features" in reading:
            reading.pop("columns", None)  # the keys of clients in the table of the server
        table["data"] = reading | {"path": str(source.data)}
    return parse(table, "the configuration of the federation")


def _own_sections(source: Source) -> dict[str, Any]:
    try:
        table = read_toml(source.data)
    except FileNotFoundError as error:
        raise ConfigError([f"there is no file {source.data}: check --data"]) from error
    except UnreadableError as error:
        raise ConfigError([f"{source.data} cannot be read: {error}"]) from error
    own: dict[str, Any] = {name: table[name] for name in ("data", "partition") if name in table}
    if "seed" in table and source.part is not None:
        own["seed"] = table["seed"]  # the partition is drawn from it
    return own


def _part(dataset: Dataset, partition: Partition, part: int) -> tuple[torch.Tensor, Examples]:
    if not 0 <= part < len(partition.train):
        raise ConfigError([f"--part is {part}, but the partition has {len(partition.train)} parts, from 0"])
    if not len(partition.train[part]):
        raise ConfigError([f"part {part} of the partition has no examples to train on: choose another --part"])
    tests = partition.test[part] if partition.test else torch.empty(0, dtype=torch.int64)
    return partition.train[part], {key: value[tests] for key, value in dataset.train.items()}


def aligned(dataset: Dataset, hello: Hello) -> Dataset:
    """Return the data of a client in the terms of the server: its class indices, and its standardization.

    Raises:
        DataError: the data has other columns, shapes or classes than the server's.
    """
    shapes = shapes_of(dataset)
    if shapes != hello.shapes:
        raise DataError(
            f"the examples of this client have {_described(shapes)}, but those of the server {_described(hello.shapes)}"
            ": prepare the data like that of the server"
        )
    train, test = dict(dataset.train), dict(dataset.test)
    if bool(dataset.classes) != bool(hello.classes):
        kinds = ("classes", "targets of a regression")
        raise DataError(
            f"the labels of this client are {kinds[not dataset.classes]}, but those of the server "
            f"{kinds[not hello.classes]}: change the labels, or set data.task"
        )
    if list(dataset.classes) != hello.classes:
        order = _class_indices(dataset, hello.classes)
        for examples_ in (train, test):
            if "y" in examples_:
                examples_["y"] = order[examples_["y"]]
    wanted = Scaling(tuple(hello.mean), tuple(hello.std)) if hello.mean else None
    if dataset.scaling is not None and wanted is not None and wanted != dataset.scaling:
        for examples_ in (train, test):
            examples_["x"] = rescaled(examples_["x"], dataset.scaling, wanted)
    return Dataset(dataset.name, train, test, hello.classes, dataset.columns, dataset.notes, (), wanted)


def shapes_of(dataset: Dataset) -> dict[str, list[int]]:
    """Return the shape of an example by column; [] for texts, whose length varies."""
    texts = "length" in dataset.train
    return {key: [] if texts else list(value.shape[1:]) for key, value in sorted(dataset.train.items())}


def rescaled(x: torch.Tensor, old: Scaling, new: Scaling) -> torch.Tensor:
    """Return ``x``, standardized by ``old``, standardized by ``new`` instead."""
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    mean, std, new_mean, new_std = (torch.tensor(values, dtype=torch.float64).view(shape) for values in (*old, *new))
    return x.double().mul_(std).add_(mean - new_mean).div_(new_std).to(x.dtype)


def _class_indices(dataset: Dataset, classes: list[str]) -> torch.Tensor:
    """Return the index in ``classes`` of every class of ``dataset``."""
    if unknown := [name for name in dataset.classes if name not in classes]:
        raise DataError(
            f"the data of this client has the classes {listed([quoted(name) for name in unknown])}, which the server "
            f"does not have; it has {listed([quoted(name) for name in classes])}. Rename them, or add them to the "
            "server's data"
        )
    return torch.tensor([classes.index(name) for name in dataset.classes])


def _described(shapes: dict[str, list[int]]) -> str:
    return ", ".join(
        f"{quoted(key)} of shape {tuple(shape)}" if shape else quoted(key) for key, shape in shapes.items()
    )


def check_weights(site: Site, hello: Hello) -> None:
    """Check that the client can have the server's W₀.

    Raises:
        ModelError: its own differs, and the server does not send it.
    """
    if site.run != hello.run and not hello.sends_base:
        raise ModelError(
            f"the initial weights of this client have the hash {site.run}, but those of the server {hello.run}: use "
            "the same model files (--model), and the same versions of torch and transformers"
        )

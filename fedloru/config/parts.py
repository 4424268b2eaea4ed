"""The model, the method and the recipe that a configuration describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fedloru import models
from fedloru import net as nets
from fedloru.config.methods import assembled
from fedloru.config.parse import parse
from fedloru.config.schema import CAPACITIES, Config
from fedloru.config.source import dump
from fedloru.config.texts import is_language_model, language_net
from fedloru.data import Dataset, Examples
from fedloru.errors import FedloruError, ModelError, traced
from fedloru.method import Method, planned
from fedloru.net import Net, by_labels, outputs_for
from fedloru.recipe import Recipe
from fedloru.settings.types import RunSize
from fedloru.weight_reads import leave_out


def recipe_of(config: Config) -> Recipe:
    """Return the settings of local training."""
    return Recipe(**config.client.model_dump())


def parts(config: Config, dataset: Dataset, clients: int) -> tuple[Net, Method]:
    """Create the model and the method; for a language model, only the classes of ``dataset`` are used.

    Raises:
        FedloruError: one of them cannot be created as configured.
    """
    method = planned_method(config, clients)
    return _net(config, method, dataset), method


def source_of(config: Config, dataset: Dataset, clients: int) -> nets.Source:
    """Return how another process creates the model again."""
    facts = {"config": dump(config), "name": dataset.name, "classes": dataset.classes, "clients": clients}
    return nets.Source(f"{__name__}:{remade.__name__}", facts)


def remade(train: Examples, *, config: Mapping[str, Any], name: str, classes: Sequence[str], clients: int) -> Net:
    """Create a configured model again, in another process.

    Args:
        train: the training examples.
        config: the configuration, as ``dump`` returns it.
        name: the name of the data set.
        classes: the names of its classes.
        clients: the number of clients.

    Raises:
        FedloruError: it can no longer be created as configured.
    """
    return parts(parse(dict(config)), Dataset(name, train, train, tuple(classes)), clients)[0]


def planned_method(config: Config, clients: int) -> Method:
    """Return the configured method, with the defaults that follow from the size of the run.

    Raises:
        ConfigError: settings contradict each other.
    """
    size = RunSize(config.rounds, min(1.0, config.cohort.size / clients))
    return planned(assembled(config._asdict(), recipe_of(config), clients), size)


def seed_of(config: Config, seed: int | None) -> int:
    """Return the seed of a section, which defaults to the seed of the run."""
    return config.seed if seed is None else seed


def _net(config: Config, method: Method, dataset: Dataset) -> Net:
    if is_language_model(config.model):
        lowrank = _lowrank(config) if method.traits.low_rank else None
        return language_net(config.model, lowrank, dataset, seed_of(config, config.model.seed))
    model, loss = _model(config, dataset), config.model.loss or by_labels
    if not method.traits.low_rank:
        return nets.make(model, losses=loss)
    settings = _lowrank(config) | {"losses": loss}
    return leave_out(
        nets.attach(model, **settings),
        dataset.train,
        lambda layers: nets.attach(model, **settings | {"targets": layers}),
    )


def _lowrank(config: Config) -> dict[str, Any]:
    """Return the settings of factors, as ``attach`` takes them."""
    return config.lowrank.model_dump(exclude={CAPACITIES.name})


def _model(config: Config, dataset: Dataset) -> nn.Module:
    channels, *pixels = dataset.train["x"].shape[1:]
    if len(set(pixels)) > 1:
        raise ModelError(f"the images of {dataset.name!r} have {pixels[0]}×{pixels[1]} pixels, expected square images")
    name, settings = config.model.name, config.model.model_dump(exclude={"name", "seed", "loss"})
    if taken := [key for key in models.FROM_DATA if key in settings]:
        raise ModelError(f"model.{taken[0]} is set, but {taken[0]} follows from the data: use another name in {name}")
    try:
        return models.build(
            name,
            channels=channels,
            size=pixels[0] if pixels else 1,
            classes=outputs_for(config.model.loss, dataset.train.get("y"), len(dataset.classes)),
            seed=seed_of(config, config.model.seed),
            **settings,
        )
    except FedloruError:
        raise
    except Exception as error:  # user code may raise anything
        raise ModelError(f"{name} failed: {traced(error)}; fix it") from error

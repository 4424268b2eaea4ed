"""The plan that a configuration describes: data, partition, model, method and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import torch
from torch import nn

from fedloru import models
from fedloru import net as nets
from fedloru.config.fields import Section
from fedloru.config.methods import assembled
from fedloru.config.parse import parse
from fedloru.config.schema import CAPACITIES, Config
from fedloru.config.source import dump
from fedloru.config.texts import generation_hook, is_language_model, is_text, language_net, prints_date, texts
from fedloru.config.trial import try_out
from fedloru.data import Audit, Dataset, Examples, Partition, audit, load, make_partition, size
from fedloru.data.tables import open_settings
from fedloru.errors import FedloruError, ModelError, traced
from fedloru.hf.chat import time_of
from fedloru.lowrank.choice import alphas_of, default_alpha, globs
from fedloru.method import Method, Profile, planned
from fedloru.net import Net, by_labels, outputs_for
from fedloru.recipe import Recipe
from fedloru.run.capacities import capacities
from fedloru.run.checks import check
from fedloru.run.plan import EvalHook, Plan, keyed_settings, settings_table
from fedloru.schema import FEDERATION
from fedloru.settings.types import RunSize
from fedloru.weight_reads import leave_out

OPEN = frozenset(
    {
        *("lowrank.targets", "lowrank.alpha", "lowrank.alphas"),
        *("method.tau", "method.interval", "client.lr"),
        *("wire.first_download", "output.increments", "data.date", "data.features", "data.fill"),
    }
)
"""The settings whose defaults depend on other settings, on the model, or on the time at which a run starts."""


def plan(config: Config) -> Plan:
    """Load the data, partition and audit it, and create the model and the method.

    Raises:
        FedloruError: the data, the partition, the model or the method cannot be created as configured.
    """
    dataset, partition = split(config)
    audited(dataset, partition)
    return _assembled(config, dataset, partition, partition)


def federation_plan(config: Config, clients: int) -> Plan:
    """Return the plan of a federation of ``clients`` clients, who have their own data.

    The data in ``config`` is that of the server: the model is built for it, and tested on its test examples. A cohort
    that is larger than the federation is all of it.

    Raises:
        FedloruError: the data, the model or the method cannot be created as configured.
    """
    dataset = examples(config)
    everything = Partition(FEDERATION, 0, (torch.arange(size(dataset.train)),), (), {})
    unknown = Partition(FEDERATION, 0, (torch.empty(0, dtype=torch.int64),) * clients, (), {})
    cohort = config.cohort.model_copy(update={"size": min(config.cohort.size, clients)})
    return _assembled(config._replace(cohort=cohort), dataset, unknown, everything)


def _assembled(config: Config, dataset: Dataset, partition: Partition, tried: Partition) -> Plan:
    """Return the plan for ``partition``, after a trial of the model on the clients of ``tried``."""
    clients = len(partition.train)
    net, method = parts(config, dataset, clients)
    net = net._replace(source=_source(config, dataset, clients))
    recipe = recipe_of(config)
    made = Plan(
        net,
        method,
        dataset,
        partition,
        recipe=recipe,
        profiles=_profiles(config, partition),
        eval_hook=_eval_hook(config, dataset),
        **run_settings(config),
    )
    check(made)
    try_out(net, dataset, tried, recipe, made.chosen_metrics)
    return made


def dated(config: Config, now: datetime | None = None) -> Config:
    """Return ``config`` with the date that its chat template prints, if it prints one: ``now``, or the current time.

    Raises:
        ModelError: the model has no tokenizer.
    """
    if not prints_date(config.data, config.model):
        return config
    date = (now or time_of(None)).isoformat(timespec="seconds")
    return config._replace(data=config.data.model_copy(update={"date": date}))


def recipe_of(config: Config) -> Recipe:
    """Return the settings of local training."""
    return Recipe(**config.client.model_dump())


def run_settings(config: Config) -> dict[str, Any]:
    """Return the settings of a run by their keywords in ``Plan``."""
    return {name: _value(config, key) for name, (key, _) in keyed_settings().items()}


def _value(config: Config, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def completed(config: Config, plan: Plan) -> Config:
    """Return ``config`` with the defaults of ``OPEN`` filled in from ``plan``."""
    settings = settings_table(plan)
    method = config.method.model_copy(update=_filled(config.method, plan.method.config))
    client = config.client.model_copy(update={"lr": plan.recipe.rate})
    lowrank = config.lowrank
    if plan.method.traits.low_rank:
        lowrank = lowrank.model_copy(update=_factors(lowrank, plan.net))
    wire = config.wire.model_copy(update={"first_download": settings["wire"]["first_download"]})
    output = config.output.model_copy(update={"increments": settings["output"]["increments"]})
    data = config.data
    if plan.dataset.encoding is not None:
        data = data.model_copy(update=open_settings(plan.dataset.encoding))
    return config._replace(data=data, lowrank=lowrank, method=method, client=client, wire=wire, output=output)


def _filled(section: Section, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values for those settings of ``section`` that are not set."""
    return {key: value for key, value in values.items() if getattr(section, key, value) is None}


def _factors(lowrank: Section, net: Net) -> dict[str, Any]:
    """Return the settings of [lowrank] that are not set, from the layers of ``net``."""
    filled: dict[str, Any] = {}
    if lowrank.targets is None:
        filled["targets"] = globs([site.weight.rpartition(".")[0] for site in net.sites], net.model)
    if lowrank.alpha is None:
        alphas = alphas_of(lowrank.ranks or {}, lowrank.alphas or {}, default_alpha)
        filled |= {"alpha": default_alpha(lowrank.rank)} | ({"alphas": alphas} if alphas else {})
    return filled


def parts(config: Config, dataset: Dataset, clients: int) -> tuple[Net, Method]:
    """Create the model and the method; for a language model, only the classes of ``dataset`` are used.

    Raises:
        FedloruError: one of them cannot be created as configured.
    """
    method = planned_method(config, clients)
    return _net(config, method, dataset), method


def _source(config: Config, dataset: Dataset, clients: int) -> nets.Source:
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


def split(config: Config) -> tuple[Dataset, Partition]:
    """Load the data and partition it.

    Raises:
        DataError: the data is missing or malformed, or cannot be partitioned as configured.
    """
    dataset = examples(config)
    settings = config.partition.model_dump(exclude={"seed"})
    return dataset, make_partition(dataset, seed=_seed(config, config.partition.seed), **settings)


def audited(dataset: Dataset, partition: Partition) -> Audit:
    """Return the audit of ``partition``, by the requirements in its settings.

    Raises:
        PartitionError: the partition is invalid; all its problems are listed.
    """
    required = {key: partition.settings[key] for key in ("min_examples", "allow_unused") if key in partition.settings}
    return audit(dataset, partition, **required)


def examples(config: Config) -> Dataset:
    """Load the data.

    Raises:
        DataError: the data is missing or malformed.
    """
    if is_text(config.data) and is_language_model(config.model):
        return texts(config.data, config.model)
    return load(**config.data.model_dump())


def _eval_hook(config: Config, dataset: Dataset) -> EvalHook | None:
    if is_language_model(config.model) and config.eval.generations:
        return generation_hook(config.eval, config.model, dataset, config.data.seed)
    return None


def _seed(config: Config, seed: int | None) -> int:
    """Return the seed of a section, which defaults to the seed of the run."""
    return config.seed if seed is None else seed


def _net(config: Config, method: Method, dataset: Dataset) -> Net:
    if is_language_model(config.model):
        lowrank = _lowrank(config) if method.traits.low_rank else None
        return language_net(config.model, lowrank, dataset, _seed(config, config.model.seed))
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


def _profiles(config: Config, partition: Partition) -> tuple[Profile, ...]:
    shares = {int(rank): share for rank, share in config.lowrank.capacities.items()}
    return capacities(len(partition.train), shares, config.seed) if shares else ()


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
            seed=_seed(config, config.model.seed),
            **settings,
        )
    except FedloruError:
        raise
    except Exception as error:  # user code may raise anything
        raise ModelError(f"{name} failed: {traced(error)}; fix it") from error

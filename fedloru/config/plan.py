"""The plan that a configuration describes: data, partition, model, method and settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import torch

from fedloru.config.fields import Section
from fedloru.config.parts import parts, recipe_of, seed_of, source_of
from fedloru.config.schema import Config
from fedloru.config.texts import generation_hook, is_language_model, is_text, prints_date, texts
from fedloru.config.trial import try_out
from fedloru.data import Audit, Dataset, Partition, audit, load, make_partition, size
from fedloru.data.tables import open_settings
from fedloru.hf.chat import time_of
from fedloru.lowrank.choice import alphas_of, default_alpha, globs
from fedloru.method import Profile
from fedloru.net import Net
from fedloru.run.capacities import capacities
from fedloru.run.checks import check
from fedloru.run.plan import EvalHook, Plan, keyed_settings, settings_table
from fedloru.schema import FEDERATION

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
    net = net._replace(source=source_of(config, dataset, clients))
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


def split(config: Config) -> tuple[Dataset, Partition]:
    """Load the data and partition it.

    Raises:
        DataError: the data is missing or malformed, or cannot be partitioned as configured.
    """
    dataset = examples(config)
    settings = config.partition.model_dump(exclude={"seed"})
    return dataset, make_partition(dataset, seed=seed_of(config, config.partition.seed), **settings)


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


def _profiles(config: Config, partition: Partition) -> tuple[Profile, ...]:
    shares = {int(rank): share for rank, share in config.lowrank.capacities.items()}
    return capacities(len(partition.train), shares, config.seed) if shares else ()

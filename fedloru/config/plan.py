"""From a configuration to everything a run is made of; whatever cannot be made is refused here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fedloru import hf, models
from fedloru import net as nets
from fedloru.config.forms import LanguageModel, NoServer, TextData
from fedloru.config.schema import Config
from fedloru.config.text import language_net, texts, writing
from fedloru.config.trial import try_out
from fedloru.data import Audit, Dataset, Partition, audit, load, make_partition
from fedloru.errors import FedloruError, ModelError, traced
from fedloru.method import Method, Profile
from fedloru.methods import METHODS, clip, prox, scaffold, server_opt
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.run.capacities import capacities
from fedloru.run.plan import Plan, check
from fedloru.tree import Params

EVERY = ["*"]
"""The layers that get factors where nobody says."""
OPEN = frozenset({"lowrank.targets", "wire.first_download", "output.increments"})
"""The settings that depend on the model where they are left out."""


def plan(config: Config) -> Plan:
    """Load the data, part and audit it, and make the model and the method.

    Raises:
        FedloruError: the data, the partition, the model or the method cannot be made as configured.
    """
    dataset, partition = split(config)
    audited(dataset, partition)
    net, made = parts(config, dataset, len(partition.train))
    recipe = Recipe(**dict(config.client))
    try_out(net, dataset, partition, recipe)
    whole = Plan(
        net,
        made,
        dataset,
        partition,
        config.rounds,
        config.cohort.size,
        recipe,
        config.seed,
        cohort_seed=config.cohort.seed,
        engine=config.engine.name,
        chunk=config.engine.chunk,
        path=config.engine.path,
        device=config.engine.device,
        codec=config.wire.codec,
        round_trip=config.wire.round_trip,
        first_download=config.wire.first_download is not False,
        profiles=_profiles(config, partition),
        eval_every=config.eval.every,
        eval_clients=config.eval.clients,
        diagnostics=config.eval.diagnostics,
        eval_hook=_eval_hook(config, dataset),
        checkpoint_every=config.output.checkpoint_every,
        increments=config.output.increments,
    )
    check(whole)
    return whole


def completed(config: Config, plan: Plan) -> Config:
    """Return ``config`` with the settings of ``OPEN``, where it leaves them to the model, as ``plan`` has them."""
    lowrank, wire = config.lowrank, config.wire.model_copy(update={"first_download": plan.sends_base})
    if lowrank.targets is None and plan.method.low_rank:
        usual = hf.usual_targets(plan.net.model) if isinstance(config.model, LanguageModel) else EVERY
        lowrank = lowrank.model_copy(update={"targets": usual})
    output = config.output.model_copy(update={"increments": plan.keeps_increments})
    return config._replace(lowrank=lowrank, wire=wire, output=output)


def parts(config: Config, dataset: Dataset, clients: int) -> tuple[Net, Method]:
    """Make the model and the method; of a language model's data set, the classes alone are needed.

    Raises:
        FedloruError: one of them cannot be made as configured.
    """
    made = _method(config, clients)
    return _net(config, made, dataset), made


def split(config: Config) -> tuple[Dataset, Partition]:
    """Load the data, and part it over clients.

    Raises:
        DataError: the data is missing or malformed, or cannot be parted as configured.
    """
    dataset = examples(config)
    settings = config.partition.model_dump(exclude={"seed"})
    return dataset, make_partition(dataset, seed=_seed(config, config.partition.seed), **settings)


def audited(dataset: Dataset, partition: Partition) -> Audit:
    """Return the audit of ``partition`` by its own settings.

    Raises:
        PartitionError: it is not sound; all its problems are listed.
    """
    asked = {key: partition.settings[key] for key in ("min_examples", "allow_unused") if key in partition.settings}
    return audit(dataset, partition, **asked)


def examples(config: Config) -> Dataset:
    """Load the data.

    Raises:
        DataError: it is missing or malformed.
    """
    if isinstance(config.data, TextData) and isinstance(config.model, LanguageModel):
        return texts(config.data, config.model)
    return load(**config.data.model_dump())


def _eval_hook(config: Config, dataset: Dataset) -> Callable[[Net, Params], dict[str, Any]] | None:
    if isinstance(config.model, LanguageModel) and config.eval.generations:
        return writing(config.eval, config.model, dataset, config.data.seed)
    return None


def _seed(config: Config, own: int | None) -> int:
    return config.seed if own is None else own


def _method(config: Config, clients: int) -> Method:
    chosen, server = config.method, config.server
    made = METHODS[chosen.name](**chosen.model_dump(exclude={"name", "prox", "clip", "scaffold"}))
    if chosen.prox is not None:
        made = prox(made, mu=chosen.prox)
    if not isinstance(server, NoServer):
        made = server_opt(made, **dict(server))
    if chosen.scaffold:
        made = scaffold(made, lr=config.client.lr, clients=clients)
    if chosen.clip is not None:
        made = clip(made, norm=chosen.clip)
    return made


def _net(config: Config, made: Method, dataset: Dataset) -> Net:
    if isinstance(config.model, LanguageModel):
        lowrank, seed = config.lowrank if made.low_rank else None, _seed(config, config.model.seed)
        return language_net(config.model, lowrank, dataset.classes, seed)
    model = _model(config, dataset)
    if made.low_rank:
        settings = config.lowrank.model_dump(exclude={"capacities"}) | {"targets": config.lowrank.targets or EVERY}
        return nets.attach(model, **settings)
    return nets.make(model)


def _profiles(config: Config, partition: Partition) -> tuple[Profile, ...]:
    shares = {int(rank): share for rank, share in config.lowrank.capacities.items()}
    return capacities(len(partition.train), shares, config.seed) if shares else ()


def _model(config: Config, dataset: Dataset) -> nn.Module:
    channels, *pixels = dataset.train["x"].shape[1:]
    if len(set(pixels)) > 1:
        raise ModelError(f"the images of {dataset.name!r} have {pixels[0]}×{pixels[1]} pixels: make them square")
    name, settings = config.model.name, config.model.model_dump(exclude={"name", "seed"})
    try:
        return models.build(
            name,
            channels=channels,
            size=pixels[0] if pixels else 1,
            classes=len(dataset.classes),
            seed=_seed(config, config.model.seed),
            **settings,
        )
    except FedloruError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"{name} failed: {traced(error)}; mend it") from error

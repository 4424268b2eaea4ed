"""The plan of a run.

Each setting of a run is declared once, as a field of ``Plan``: its type, its default, its key in a configuration, and
its help. The keywords of ``fedloru.run``, the sections of a configuration, the record in a run folder and the
documentation are derived from that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from typing import Annotated, Any, NamedTuple, cast, get_args

import torch
from torch import nn

from fedloru import lowrank, tree
from fedloru import metrics as metric
from fedloru.data import Dataset, Partition
from fedloru.engine import ENGINES
from fedloru.engine.fused.fold import LayerPath
from fedloru.method import Method, Profile, planned
from fedloru.metrics import Chosen, Metric
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.schema import FEDERATION
from fedloru.settings import PREFIX, In, Setting, problems_of, settings_of, short
from fedloru.settings.types import Count, Flag, NotNegative, Ordered, RunSize, Text, Whole
from fedloru.tree import Params
from fedloru.wire import CODECS

EvalHook = Callable[[Net, Params], dict[str, Any]]


class Key(NamedTuple):
    """The key of a setting in a configuration, such as "eval.every"."""

    path: str


DEFAULT_RECIPE = Recipe()


@dataclass(frozen=True)
class Plan:
    """A run as a value: the same plan gives the same run.

    Args:
        net: the model.
        method: the federated method.
        dataset: the examples, to train and to test.
        partition: which training examples each client has.
        rounds: the number of rounds to train.
        cohort: clients sampled for each round, without replacement.
        recipe: how a client trains.
        seed: the seed of the factors, the local batches, and everything without its own seed.
        cohort_seed: the seed of the cohorts; by default the run's seed.
        engine: how the clients of a round are trained: sequential (one after another), fused (many in one batch), auto
            (fused if the model supports it), or ray (as auto, in several processes of a Ray cluster).
        chunk: the number of clients trained at once by the fused engine; by default as many as fit.
        path: how the fused engine evaluates low-rank layers.
        workers: the number of processes that train the clients, each with one thread; by default only this process, or
            with the engine ray as many as the cluster has CPUs, or GPUs if the device is one. Without ray, the model
            must come from a configuration, and the device must be the CPU.
        device: the torch device, such as cpu, cuda or cuda:1.
        threads: the number of CPU threads; by default chosen by torch.
        codec: the type to which values are rounded for transport; exact does not round. int8 and int4 send matrices as
            codes of 8 bits, and with int4 factors as codes of 4 bits, with a scale for each row or column.
        round_trip: whether every message is actually encoded and decoded; if not, bytes are computed by formula.
        first_download: whether a client downloads the frozen weights on first contact, or creates them itself; by
            default it downloads them, except for language models, which every client loads itself.
        profiles: the profile of each client, such as its rank; by default all clients are equal.
        eval_every: the number of rounds between evaluations; the last round is always evaluated.
        eval_examples: the maximum number of test examples that are used, the same in every round, drawn from the run's
            seed; it also applies to each client's own test examples. By default all are used.
        eval_clients: the number of clients that are scored, drawn from the run's seed, each on its own test examples or
            else on its rows of the test set, if these have its key, or on a part with its mix of classes.
        eval_clients_every: the number of rounds between scores of clients; by default, clients with their own test
            examples are scored at every evaluation, and others before training and after the last round.
        metrics: further metrics at every evaluation: a list of names, or a table from names to functions of the outputs
            and the targets of all test examples; by default rmse, mae and r2 for a regression.
        keep_best: whether the model of the best evaluation is kept next to that of the last round.
        eval_best: the score by which evaluations are compared, and whether its lowest or its highest value is the best,
            such as "lowest loss" or "highest accuracy". The model before training is compared too.
        patience: the number of evaluations without improvement after which the run ends; by default it trains all
            rounds.
        min_delta: the change of the score up to which patience does not count it as an improvement.
        diagnostics: whether aggregation gaps, ranks and agreement of updates are recorded.
        diagnostics_every: the number of rounds from which one is chosen for diagnostics, the last that merges if any
            does; by default so many that diagnostics take about 1.5% of the estimated work of a run.
        eval_hook: a function called with the shared model at every evaluation; what it returns is added to the row of
            the round, except "generations", which are written to their own file.
        checkpoint_every: the number of rounds between checkpoints.
        increments: whether the factors of every merge are kept, so that all merges can be exported as one adapter; by
            default only for language models.
    """

    net: Net
    method: Method
    dataset: Dataset
    partition: Partition
    _: KW_ONLY
    rounds: Annotated[Count, Key("rounds")] = 50
    cohort: Annotated[Count, Key("cohort.size")] = 10
    recipe: Recipe = DEFAULT_RECIPE
    seed: Annotated[Whole, Key("seed")] = 0
    cohort_seed: Annotated[Whole | None, Key("cohort.seed")] = None
    codec: Annotated[str, In(CODECS), Key("wire.codec")] = "fp32"
    round_trip: Annotated[Flag, Key("wire.round_trip")] = True
    first_download: Annotated[Flag | None, Key("wire.first_download")] = None
    engine: Annotated[str, In(ENGINES), Key("engine.name")] = "auto"
    chunk: Annotated[Count | None, Key("engine.chunk")] = None
    path: Annotated[LayerPath, Key("engine.path")] = "auto"
    workers: Annotated[Count | None, Key("engine.workers")] = None
    device: Annotated[Text, Key("engine.device")] = "cpu"
    threads: Annotated[Count | None, Key("engine.threads")] = None
    eval_every: Annotated[Count, Key("eval.every")] = 1
    eval_examples: Annotated[Count | None, Key("eval.examples")] = None
    eval_clients: Annotated[Whole, Key("eval.clients")] = 100
    eval_clients_every: Annotated[Count | None, Key("eval.clients_every")] = None
    metrics: Annotated[Chosen | None, Key("eval.metrics")] = None
    keep_best: Annotated[Flag, Key("eval.keep_best")] = False
    eval_best: Annotated[Ordered, Key("eval.best")] = "lowest loss"
    patience: Annotated[Count | None, Key("eval.patience")] = None
    min_delta: Annotated[NotNegative, Key("eval.min_delta")] = 0.0
    diagnostics: Annotated[Flag, Key("eval.diagnostics")] = True
    diagnostics_every: Annotated[Count | None, Key("eval.diagnostics_every")] = None
    eval_hook: EvalHook | None = None
    profiles: tuple[Profile, ...] = ()
    checkpoint_every: Annotated[Count, Key("output.checkpoint_every")] = 10
    increments: Annotated[Flag | None, Key("output.increments")] = None

    def __post_init__(self) -> None:
        """Fill in the settings of the method that follow from the size of the run."""
        method, partition = cast("Any", (self.method, self.partition))  # ``checks.check`` refuses others with advice
        given = {"rounds": self.rounds, "cohort": self.cohort}
        if not isinstance(method, Method) or not isinstance(partition, Partition) or not partition.train:
            return
        if not list(problems_of(settings_of(Plan), given)):
            share = min(1.0, self.cohort / len(partition.train))
            object.__setattr__(self, "method", planned(method, RunSize(self.rounds, share)))

    def __repr__(self) -> str:
        """Return the method, the data, the size and the seed of the run in one line."""
        return f"Plan({title(self)}, {self.rounds:,} rounds)"

    def replace(self, **changes: Any) -> Plan:
        """Return a copy with other values for the given fields."""
        return dataclasses.replace(self, **changes)

    @property
    def clients(self) -> int:
        """The number of clients."""
        return len(self.partition.train)

    @property
    def sends_base(self) -> bool:
        """Whether a client downloads the base on first contact; never if it loads the base itself."""
        return self.first_download is not False and not self.net.local_base

    @property
    def has_own_tests(self) -> bool:
        """Whether clients have their own test examples: a part of the partition, or in a federation their own data."""
        return bool(self.partition.test) or self.partition.scheme == FEDERATION

    @property
    def chosen_metrics(self) -> dict[str, Metric]:
        """The further metrics of an evaluation by name.

        Raises:
            ConfigError: a reference leads nowhere.
        """
        default = metric.FOR_REGRESSION if self.dataset.task == "regression" else ()
        return metric.named(default if self.metrics is None else self.metrics)

    @property
    def keeps_increments(self) -> bool:
        """Whether the run folder keeps the factors of every merge."""
        return self.net.local_base if self.increments is None else self.increments


def title(plan: Plan) -> str:
    """Return the method, the data, the number of clients and the seed of a plan."""
    size = f"{plan.clients:,} clients, {plan.cohort:,} per round"
    return f"{short(plan.method.name)} on {plan.dataset.name!r}, {size}, seed {plan.seed}"


def keyed_settings() -> Mapping[str, tuple[str, Setting]]:
    """Return the settings that have a key in a configuration, with that key, by their keywords in ``Plan``."""
    return {name: (key, setting) for name, setting in settings_of(Plan).items() if (key := _key(setting.annotation))}


def defaults() -> dict[str, Any]:
    """Return the defaults of the settings of a plan by their keys, such as "eval.every"."""
    return {key: setting.default for key, setting in keyed_settings().values()}


def settings_table(plan: Plan) -> dict[str, Any]:
    """Return the settings of ``plan`` in the sections of a configuration, with model-dependent defaults filled in."""
    table: dict[str, Any] = {}
    filled = {"first_download": plan.sends_base, "increments": plan.keeps_increments}
    filled["metrics"] = metric.recorded(plan.metrics)
    for name, (key, _) in keyed_settings().items():
        section, _, own = key.rpartition(".")
        place = table.setdefault(section, {}) if section else table
        place[own] = filled.get(name, getattr(plan, name))
    return table


def _key(annotation: Any) -> str | None:
    return next((item.path for item in get_args(annotation)[1:] if isinstance(item, Key)), None)


def references(plan: Plan) -> list[str]:
    """Return the ``python:`` names of the functions that run in a round."""
    wrappers = (str(wrapper["name"]) for wrapper in plan.method.config.get("wrap", []))
    names = [plan.method.name, *wrappers, plan.engine, str(plan.codec)]
    return [name for name in names if name.startswith(PREFIX)]


def profile(plan: Plan, client: int) -> Profile:
    """Return the profile of ``client``; () is the default profile, which clients have that are enrolled later."""
    return plan.profiles[client] if client < len(plan.profiles) else ()


def on_device(plan: Plan) -> Plan:
    """Return ``plan`` with the model and the data set on its device."""
    net = plan.net._replace(
        model=_on_device(plan.net.model, plan.device),
        params=tree.to(plan.net.params, plan.device),
        buffers=tree.to(plan.net.buffers, plan.device),
    )
    dataset = plan.dataset._replace(
        train=tree.to(plan.dataset.train, plan.device), test=tree.to(plan.dataset.test, plan.device)
    )
    return plan.replace(net=net, dataset=dataset)


def _on_device(model: nn.Module, device: str) -> nn.Module:
    """Return ``model``, or a copy on ``device`` if it holds a tensor elsewhere, such as a buffer that is not saved."""
    if all(t.device.type == torch.device(device).type for t in chain(model.parameters(), model.buffers())):
        return model
    return lowrank.shallow_copy(model, trained=False).to(device)

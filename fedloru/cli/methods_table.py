"""The methods on the terminal: what each trains, sends and aggregates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from fedloru import config as configs
from fedloru.config import Config
from fedloru.errors import ConfigError, FedloruError
from fedloru.method import Method, profile_name
from fedloru.methods import METHODS, WRAPPERS, declaration, make
from fedloru.report import units
from fedloru.run.checks import check
from fedloru.run.plan import Plan
from fedloru.run.plan import profile as profile_of
from fedloru.settings import short
from fedloru.wire import Traffic, cost_by_profile

NO_WRAP = {"method", "kB up", "kB down", "aggregate", "arXiv"}
STEADY = (3, 4)
"""The rounds whose mean is shown: two, since RoLoRA alternates between the two halves of the factors."""


class Sent(NamedTuple):
    """The bytes of the clients of one profile in one round, and the number of these clients."""

    clients: int
    up: float
    down: float


LEGEND = (
    "kB: bytes of one client in one round. P: clients per round; T: rounds; τ: rounds between merges; r: rank of a "
    "site; r_k: rank of client k; W: the rank of the weight itself, not of its update. The facts are those of the "
    "default settings; brackets mark what depends on a setting (personal) or holds for one factor (A)."
)


def show(source: str | None, overrides: Sequence[str]) -> None:
    """Print the methods, and the bytes that each would send with a configuration.

    Raises:
        FedloruError: the configuration is invalid.
    """
    chosen = configs.load(source, overrides)
    plans = _plans(chosen)
    bytes_of: dict[str, dict[str, Sent]] = {}
    without_bytes: dict[str, list[str]] = {}
    listed = list(dict.fromkeys([*METHODS, chosen.method.name]))
    for name in listed:
        try:
            bytes_of[name] = _bytes(name, chosen, plans)
        except FedloruError as error:
            reason = " ".join(error.problems) if isinstance(error, ConfigError) else str(error)
            without_bytes.setdefault(reason.replace(f"{short(name)} ", "this method ", 1), []).append(short(name))
    console = Console()
    console.print(_table(listed, bytes_of))
    if any(sent.keys() != {profile_name(())} for sent in bytes_of.values()):
        console.print(_by_profile(bytes_of))
    console.print(LEGEND, highlight=False)
    for reason, names in without_bytes.items():
        console.print(f"No bytes for {', '.join(names)}: {reason}", highlight=False, markup=False)


def _table(listed: Iterable[str], bytes_of: Mapping[str, Mapping[str, Sent]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for name in ("method", "trained", "kB up", "kB down", "aggregate", "rank up to", "kept", "arXiv"):
        table.add_column(name, justify="right" if name.startswith("kB") else "left", no_wrap=name in NO_WRAP)
    for name in listed:
        facts = declaration(METHODS.find(name)).facts
        table.add_row(short(name), facts.trained, *_kilobytes(bytes_of.get(name, {}).values()), *facts[1:])
    return table


def _by_profile(bytes_of: Mapping[str, Mapping[str, Sent]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), title="by profile")
    for name in ("method", "profile", "kB up", "kB down"):
        table.add_column(name, justify="right" if name.startswith("kB") else "left")
    for name, sent in bytes_of.items():
        for number, (profile, one) in enumerate(sent.items()):
            table.add_row("" if number else short(name), profile, *_kilobytes([one]))
    return table


def _kilobytes(sent: Iterable[Sent]) -> list[str]:
    """Return the kB up and down of one client, as the mean over all."""
    sums = [sum(counts) for counts in zip(*sent, strict=True)]
    return [f"{count / sums[0] / 1e3:,.1f}" for count in sums[1:]] or [units.DASH] * 2


def _plans(config: Config) -> tuple[Plan, Plan | FedloruError]:
    """Return a plan with the dense model, and one with the adapted model, or the error that prevents it."""
    base = configs.dump(config) | {"server": {}}
    uniform = {**base["lowrank"], "capacities": {}}
    dense = configs.plan(configs.parse(base | {"method": {"name": "fedavg"}, "lowrank": uniform}))
    try:
        adapted = configs.plan(configs.parse(base | {"method": {"name": "flexlora"}}))
    except FedloruError as error:
        return dense, error
    return dense.replace(profiles=adapted.profiles), adapted


def _bytes(name: str, config: Config, plans: tuple[Plan, Plan | FedloruError]) -> dict[str, Sent]:
    method = make(name, _settings(name, config))
    dense, adapted = plans
    if isinstance(adapted, FedloruError) and method.traits.low_rank:
        raise adapted
    return _steady_bytes(method, adapted if method.traits.low_rank and isinstance(adapted, Plan) else dense)


def _settings(name: str, config: Config) -> dict[str, object]:
    """Return the settings of the configured method, without wrappers; {} for all other methods."""
    if config.method.name != name:
        return {}
    return {key: value for key, value in config.method.model_dump().items() if key not in {"name", "wrap", *WRAPPERS}}


def _steady_bytes(method: Method, plan: Plan) -> dict[str, Sent]:
    """Return the bytes per profile, as the mean over the rounds ``STEADY`` with a constant cohort."""
    check(plan.replace(method=method))
    cohort = _cohort(plan)
    by_round = cost_by_profile(
        plan.net, method, [cohort] * STEADY[-1], profiles=plan.profiles, codec=plan.codec, first_download=False
    )
    sent = {}
    for profile, clients in sorted(Counter(profile_of(plan, client) for client in cohort).items()):
        spent = sum((by_round[round - 1][profile] for round in STEADY), Traffic())
        sent[profile_name(profile)] = Sent(clients, *(spent.total(way) / len(STEADY) for way in ("up", "down")))
    return sent


def _cohort(plan: Plan) -> list[int]:
    """Return a cohort with a client of every profile, completed in the order of the clients."""
    first = {profile_of(plan, client): client for client in reversed(range(plan.clients))}
    others = [client for client in range(plan.clients) if client not in first.values()]
    return [*first.values(), *others][: max(plan.cohort, len(first))]

"""The methods on the terminal: what each trains, sends and aggregates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedloru import config as configs
from fedloru.cli.output import console, print_json
from fedloru.config import Config
from fedloru.errors import ConfigError, FedloruError
from fedloru.method import Method, profile_name
from fedloru.methods import METHODS, WRAPPERS, declaration, make
from fedloru.report import units
from fedloru.report.columns import Column, Listing
from fedloru.run.checks import check
from fedloru.run.plan import Plan
from fedloru.run.plan import profile as profile_of
from fedloru.settings import short
from fedloru.wire import Traffic, cost_by_profile

STEADY = (3, 4)
"""The rounds whose mean is shown: two, since RoLoRA alternates between the two halves of the factors."""


class Sent(NamedTuple):
    """The bytes of the clients of one profile in one round, and the number of these clients."""

    clients: int
    up: float
    down: float


METHOD = Column("method", "method", short, wraps=False)
KILOBYTES = [
    Column("up_bytes", "kB up", lambda count: f"{count / 1e3:,.1f}", right=True, wraps=False),
    Column("down_bytes", "kB down", lambda count: f"{count / 1e3:,.1f}", right=True, wraps=False),
]
COLUMNS = [
    METHOD,
    Column("trained", "trained"),
    *KILOBYTES,
    Column("aggregate", "aggregate", wraps=False),
    Column("rank", "rank up to"),
    Column("client_state", "kept"),
    Column("source", "arXiv", wraps=False),
]
BY_PROFILE = [METHOD, Column("profile", "profile"), *KILOBYTES]

LEGEND = (
    "kB: bytes of one client in one round. P: clients per round; T: rounds; τ: rounds between merges; r: rank of a "
    "site; r_k: rank of client k; W: the rank of the weight itself, not of its update. The facts are those of the "
    "default settings; brackets mark what depends on a setting (personal) or holds for one factor (A)."
)


def show(source: str | None, overrides: Sequence[str], as_json: bool) -> None:
    """Print the methods, and the bytes that each would send with a configuration.

    Raises:
        FedloruError: the configuration is invalid.
    """
    methods, profiles = _listings(configs.load(source, overrides))
    if as_json:
        print_json({"methods": methods.json(), "profiles": profiles.json()})
        return
    out = console()
    out.print(methods.table())
    if profiles.rows:
        out.print(profiles.table())
    out.print(LEGEND, highlight=False)
    reasons: dict[str, list[str]] = {}
    for row in methods.rows:
        if row["problem"]:
            reasons.setdefault(row["problem"], []).append(short(row["method"]))
    for reason, names in reasons.items():
        out.print(f"No bytes for {', '.join(names)}: {reason}", highlight=False, markup=False)


def _listings(chosen: Config) -> tuple[Listing, Listing]:
    """Return all methods, and the bytes by profile if clients have different ones."""
    plans = _plans(chosen)
    bytes_of: dict[str, dict[str, Sent]] = {}
    problems: dict[str, str] = {}
    listed = list(dict.fromkeys([*METHODS, chosen.method.name]))
    for name in listed:
        try:
            bytes_of[name] = _bytes(name, chosen, plans)
        except FedloruError as error:
            reason = " ".join(error.problems) if isinstance(error, ConfigError) else str(error)
            problems[name] = reason.replace(f"{short(name)} ", "this method ", 1)
    rows = [
        {
            "method": name,
            **{
                fact: None if text == units.DASH else text
                for fact, text in declaration(METHODS.find(name)).facts._asdict().items()
            },
            **_mean(bytes_of.get(name, {}).values()),
            "problem": problems.get(name),
        }
        for name in listed
    ]
    several = any(sent.keys() != {profile_name(())} for sent in bytes_of.values())
    return Listing(COLUMNS, rows), Listing(BY_PROFILE, list(_profiles(bytes_of)) if several else [], "by profile")


def _profiles(bytes_of: Mapping[str, Mapping[str, Sent]]) -> Iterator[dict[str, Any]]:
    for name, sent in bytes_of.items():
        for profile, one in sent.items():
            yield {"method": name, "profile": profile, "clients": one.clients, **_mean([one])}


def _mean(sent: Iterable[Sent]) -> dict[str, float | None]:
    """Return the bytes up and down of one client, as the mean over all; None if they are not known."""
    sums = [sum(counts) for counts in zip(*sent, strict=True)]
    up, down = [count / sums[0] for count in sums[1:]] or (None, None)
    return {"up_bytes": up, "down_bytes": down}


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

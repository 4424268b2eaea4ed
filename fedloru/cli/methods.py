"""The command that lists the methods: what each trains and sends, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fedloru import config as configs
from fedloru.cli.app import Overrides, Source, app
from fedloru.config import SECTIONS, Config
from fedloru.config.forms import FedAvg, FlexLoRA, NoServer
from fedloru.errors import ConfigError, FedloruError
from fedloru.method import Method, profile_name
from fedloru.methods import METHODS
from fedloru.report import units
from fedloru.run.plan import Plan, check
from fedloru.run.plan import profile as profile_of
from fedloru.wire import Traffic, cost_by_profile

if TYPE_CHECKING:
    from rich.table import Table

WRAPPING = {"name", "prox", "clip", "scaffold"}
NARROW = {"method", "kB up", "kB down", "aggregate", "arXiv"}
STEADY = (3, 4)
"""The rounds whose mean is shown: two, for RoLoRA sends one half of the factors in each in turn."""


class Sent(NamedTuple):
    """Bytes of so many clients of one profile in one round."""

    clients: int
    up: float
    down: float


class Facts(NamedTuple):
    """What is known of a method beside its bytes; T rounds, P clients a round, r the rank of a site."""

    trained: str
    aggregate: str
    rank: str
    keeps: str
    arxiv: str


FACTS: dict[str, Facts] = {
    "fedavg": Facts("all weights", "exact", "full", "–", "1602.05629"),
    "fedlora": Facts("A, B", "inexact", "r", "–", "2305.05644"),
    "fedloru": Facts("A, B, merged every τ", "inexact", "r·T/τ", "–", "2409.12371"),
    "pfedloru": Facts("A, B, private pair", "inexact", "r·T/τ", "the pair", "2409.12371"),
    "mfedloru": Facts("A, B or nested pairs", "inexact", "r·T/τ", "–", "2409.12371"),
    "ffalora": Facts("B; A is a draw", "exact", "r", "–", "2403.12313"),
    "rolora": Facts("B and A in turn", "exact", "r", "–", "2409.02346"),
    "fedsa": Facts("A, and B in private", "exact (A)", "r", "B", "2410.01463"),
    "flora": Facts("A, B, fresh each round", "exact", "T·Σ r_k", "–", "2409.05976"),
    "fedex": Facts("A, B", "exact", "r + T·P·r", "–", "2410.09432"),
    "fedhm": Facts("UV cut from W", "exact", "W: Σ r_k", "–", "2111.14655"),
    "fedlmt": Facts("UV in place of W", "inexact", "W: r", "–", "ICML 2024"),
    "fedmud": Facts("L, R, merged every τ", "exact", "2r·T/τ", "–", "2505.23176"),
    "fedpara": Facts("X₁Y₁ᵀ ⊙ X₂Y₂ᵀ for W", "inexact", "W: r²", "– (X₂, Y₂)", "2108.06098"),
    "flexlora": Facts("A, B of rank r_k", "exact", "Σ r_k", "–", "2402.11505"),
    "hetlora": Facts("A, B of rank r_k", "inexact", "r", "–", "2401.06432"),
}
"""By their defaults; what stands in brackets is for a setting (``personal``) or a part (A)."""

LEGEND = (
    "Sent by one client in one round. P clients a round, T rounds, τ rounds from merge to merge, r the rank of a site, "
    "r_k that of a client; W: the rank of the weight itself, not of its change."
)


@app.command()
def methods(source: Source = None, overrides: Overrides = None) -> None:
    """List the methods, and what each would send.

    Bytes are those of one client in one round, for the configured model and ranks, if it takes part in every round:
    by the method's formula, with the increments of methods that merge every round. The configured method has its
    settings, all others their defaults. Where clients differ (lowrank.capacities), the mean of a cohort with a client
    of every profile is shown, and then each profile.
    """
    from rich.console import Console

    chosen = configs.load(source, overrides or ())
    plans = _plans(chosen)
    bytes_of: dict[str, dict[str, Sent]] = {}
    refused: dict[str, list[str]] = {}
    for name in FACTS:
        try:
            bytes_of[name] = _bytes(name, chosen, plans)
        except FedloruError as error:
            reason = " ".join(error.problems) if isinstance(error, ConfigError) else str(error)
            refused.setdefault(reason.replace(f"{name} ", "this method ", 1), []).append(name)
    console = Console()
    console.print(_table(bytes_of))
    if any(sent.keys() != {profile_name(())} for sent in bytes_of.values()):
        console.print(_by_profile(bytes_of))
    console.print(LEGEND, highlight=False)
    for reason, names in refused.items():
        console.print(f"No bytes for {', '.join(names)}: {reason}", highlight=False, markup=False)


def _table(bytes_of: Mapping[str, Mapping[str, Sent]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for name in ("method", "trained", "kB up", "kB down", "aggregate", "rank up to", "kept", "arXiv"):
        table.add_column(name, justify="right" if name.startswith("kB") else "left", no_wrap=name in NARROW)
    for name, facts in FACTS.items():
        table.add_row(name, facts.trained, *_kilobytes(bytes_of.get(name, {}).values()), *facts[1:])
    return table


def _by_profile(bytes_of: Mapping[str, Mapping[str, Sent]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), title="by profile")
    for name in ("method", "profile", "kB up", "kB down"):
        table.add_column(name, justify="right" if name.startswith("kB") else "left")
    for name, sent in bytes_of.items():
        for number, (profile, one) in enumerate(sent.items()):
            table.add_row("" if number else name, profile, *_kilobytes([one]))
    return table


def _kilobytes(sent: Iterable[Sent]) -> list[str]:
    """Return the kB up and down of one client, the mean of all."""
    together = [sum(counts) for counts in zip(*sent, strict=True)]
    return [f"{count / together[0] / 1e3:,.1f}" for count in together[1:]] or [units.DASH] * 2


def _plans(config: Config) -> tuple[Plan, Plan | FedloruError]:
    """Return a plan on the dense model, and one on the adapted model, or why there is none."""
    alike = config.lowrank.model_copy(update={"capacities": {}})
    dense = configs.plan(config._replace(method=FedAvg(), server=NoServer(), lowrank=alike))
    try:
        adapted = configs.plan(config._replace(method=FlexLoRA(), server=NoServer()))
    except FedloruError as error:
        return dense, error
    return dense._replace(profiles=adapted.profiles), adapted


def _bytes(name: str, config: Config, plans: tuple[Plan, Plan | FedloruError]) -> dict[str, Sent]:
    form = config.method if config.method.name == name else SECTIONS["method"].by_name[name]()
    method = METHODS[name](**form.model_dump(exclude=WRAPPING))
    dense, adapted = plans
    if isinstance(adapted, FedloruError) and method.low_rank:
        raise adapted
    return _steady(method, adapted if method.low_rank and isinstance(adapted, Plan) else dense)


def _steady(method: Method, plan: Plan) -> dict[str, Sent]:
    """Return the bytes of each profile in a round, the mean of some, in a cohort that never changes."""
    check(plan._replace(method=method))
    cohort = _cohort(plan)
    each = cost_by_profile(
        plan.net, method, [cohort] * STEADY[-1], profiles=plan.profiles, codec=plan.codec, first_download=False
    )
    sent = {}
    for profile, clients in sorted(Counter(profile_of(plan, client) for client in cohort).items()):
        spent = sum((each[round - 1][profile] for round in STEADY), Traffic())
        sent[profile_name(profile)] = Sent(clients, *(spent.total(way) / len(STEADY) for way in ("up", "down")))
    return sent


def _cohort(plan: Plan) -> list[int]:
    """Return a cohort with a client of every profile, filled up in the order of clients."""
    first = {profile_of(plan, client): client for client in reversed(range(plan.clients))}
    others = [client for client in range(plan.clients) if client not in first.values()]
    return [*first.values(), *others][: max(plan.cohort, len(first))]

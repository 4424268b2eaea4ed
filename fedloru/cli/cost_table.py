"""The bytes of a configured run on the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloru import config as configs
from fedloru.cli.app import say
from fedloru.cli.output import console, print_json
from fedloru.errors import counted
from fedloru.method import is_merge_round
from fedloru.report import profiles as by_profile
from fedloru.report import units
from fedloru.report.columns import Column, Listing
from fedloru.run import profiles
from fedloru.run.notes import notes
from fedloru.run.plan import Plan
from fedloru.run.sampling import cohort
from fedloru.run.summary import fedavg_bytes
from fedloru.settings import short
from fedloru.wire import KINDS, Traffic, cost_by_profile


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.3f}"


BYTES = [
    Column("kind", "", lambda kind: kind.replace("_", " ")),
    *(Column(way, way, _megabytes, right=True) for way in ("down", "up", "both")),
]


def show(source: str | None, overrides: Sequence[str], as_json: bool) -> None:
    """Print the bytes that the run of a configuration would send.

    Raises:
        FedloruError: the configuration is invalid.
    """
    plan = configs.plan(configs.load(source, overrides))
    record = _record(plan)
    for note in notes(plan) if as_json else ():
        say(f"Note: {note}")
    if as_json:
        print_json(record)
        return
    out = console()
    sums = [{"kind": "total", **record["total"]}, {"kind": "mean per round", **record["mean_per_round"]}]
    out.print(Listing(BYTES, [*record["bytes"], *sums], f"MB in {plan.rounds:,} rounds", totals=len(sums)).table())
    if record["profiles"]:
        listed = Listing(by_profile.COLUMNS, record["profiles"], "by profile", by_profile.CAPTION, totals=1)
        out.print(listed.table())
    for note in notes(plan):
        say(f"Note: {note}")
    for line in _sentences(plan, record):
        out.print(line, highlight=False, soft_wrap=True)


def _record(plan: Plan) -> dict[str, Any]:
    cohorts = [cohort(plan, round) for round in range(1, plan.rounds + 1)]
    accounts = cost_by_profile(
        plan.net,
        plan.method,
        cohorts,
        profiles=plan.profiles,
        codec=plan.codec,
        first_download=plan.sends_base,
    )
    total = sum((account for by_round in accounts for account in by_round.values()), Traffic())
    by_round = [profiles.of_round(plan, clients, spent) for clients, spent in zip(cohorts, accounts, strict=True)]
    down, up = total.total("down"), total.total("up")
    fedavg = fedavg_bytes(plan, cohorts)
    return {
        "method": plan.method.name,
        "rounds": plan.rounds,
        "clients": plan.clients,
        "cohort": plan.cohort,
        "codec": plan.codec,
        "bytes": [
            {"kind": kind, **_ways(total.down[kind], total.up[kind])}
            for kind in KINDS
            if total.down[kind] or total.up[kind]
        ],
        "total": _ways(down, up),
        "mean_per_round": _ways(down / plan.rounds, up / plan.rounds),
        "profiles": by_profile.listing(profiles.of_run(plan, by_round).get("profiles", {})).json(),
        "merges": _merges(plan),
        "fedavg_bytes": fedavg,
        "share_of_fedavg": (down + up) / fedavg,
    }


def _ways(down: float, up: float) -> dict[str, float]:
    return {"down": down, "up": up, "both": down + up}


def _merges(plan: Plan) -> int:
    cycle = plan.method.traits.cycle
    return 0 if cycle is None else sum(is_merge_round(cycle, round) for round in range(1, plan.rounds + 1))


def _sentences(plan: Plan, record: Mapping[str, Any]) -> Iterator[str]:
    if merges := record["merges"]:
        apart = plan.clients / plan.cohort
        often = "in every round" if apart == 1 else f"every {apart:.3g} rounds on average"
        owed = f"{min(apart / plan.rounds, 1) * merges:.2g}"
        yield (
            f"{counted(merges, 'merge')} in {counted(plan.rounds, 'round')}: a client takes part {often}, and catches "
            f"up with {owed} increment{'s' * (owed != '1')} each time."
        )
    share = record["share_of_fedavg"]
    yield (
        f"{short(plan.method.name)} would send {units.megabytes(record['total']['both'])}, and FedAvg "
        f"{units.megabytes(record['fedavg_bytes'])}: {units.percent(share)} of FedAvg's bytes, {units.times(share)}."
    )
    yield (
        f"Computed for {plan.cohort:,} of {plan.clients:,} clients per round and the codec {plan.codec}, "
        "without the envelopes of messages."
    )

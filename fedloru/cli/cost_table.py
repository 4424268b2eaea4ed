"""The bytes of a configured run on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from fedloru import config as configs
from fedloru.cli.app import say
from fedloru.method import Profile, is_merge_round
from fedloru.report import units
from fedloru.report.profiles import CAPTION, table
from fedloru.run import profiles
from fedloru.run.notes import notes
from fedloru.run.plan import Plan, cohort
from fedloru.run.summary import fedavg_bytes
from fedloru.settings import short
from fedloru.wire import KINDS, Traffic, cost_by_profile


def show(source: str | None, overrides: Sequence[str]) -> None:
    """Print the bytes that the run of a configuration would send.

    Raises:
        FedloruError: the configuration is invalid.
    """
    plan = configs.plan(configs.load(source, overrides))
    cohorts = [cohort(plan, round) for round in range(1, plan.rounds + 1)]
    accounts = cost_by_profile(
        plan.net,
        plan.method,
        cohorts,
        profiles=plan.profiles,
        codec=plan.codec,
        first_download=plan.sends_base,
    )
    console = Console()
    by_round = [sum(account.values(), Traffic()) for account in accounts]
    console.print(_bytes(by_round))
    for by_profile in _by_profile(plan, cohorts, accounts):
        console.print(by_profile)
    for note in notes(plan):
        say(f"Note: {note}")
    for line in [*_catch_up(plan), *_comparison(plan, cohorts, by_round)]:
        console.print(line, highlight=False, soft_wrap=True)


def _bytes(by_round: list[Traffic]) -> Table:
    total, rounds = sum(by_round, Traffic()), len(by_round)
    table = Table(box=box.SIMPLE_HEAD, title=f"MB in {rounds:,} rounds")
    for name in ("", "down", "up", "both"):
        table.add_column(name, justify="right" if name else "left")
    by_kind = [(kind, total.down[kind], total.up[kind]) for kind in KINDS]
    for kind, down, up in [row for row in by_kind if row[1] or row[2]]:
        table.add_row(kind.replace("_", " "), *_megabytes(down, up))
    table.add_section()
    table.add_row("total", *_megabytes(total.total("down"), total.total("up")), style="bold")
    table.add_row("mean per round", *_megabytes(total.total("down") / rounds, total.total("up") / rounds))
    return table


def _by_profile(plan: Plan, cohorts: list[list[int]], accounts: list[dict[Profile, Traffic]]) -> Iterator[Table]:
    """Yield the table of profiles if clients have different ones."""
    by_round = [profiles.of_round(plan, clients, spent) for clients, spent in zip(cohorts, accounts, strict=True)]
    summary = profiles.of_run(plan, by_round)
    if not summary:
        return
    head, rows = table(summary["profiles"])
    shown = Table(box=box.SIMPLE_HEAD, title="by profile", caption=CAPTION, caption_justify="left")
    for name in head:
        shown.add_column(name, justify="left" if name == head[0] else "right")
    for row in rows[:-1]:
        shown.add_row(*row)
    shown.add_section()
    shown.add_row(*rows[-1], style="bold")
    yield shown


def _megabytes(down: float, up: float) -> list[str]:
    return [f"{count / 1e6:,.3f}" for count in (down, up, down + up)]


def _catch_up(plan: Plan) -> Iterator[str]:
    """Yield how many increments clients miss on average, if the method merges."""
    cycle = plan.method.traits.cycle
    merges = 0 if cycle is None else sum(is_merge_round(cycle, round) for round in range(1, plan.rounds + 1))
    if merges:
        apart = plan.clients / plan.cohort
        yield (
            f"{merges:,} merges in {plan.rounds:,} rounds: a client takes part every {apart:.3g} rounds on average, "
            f"and catches up with {apart * merges / plan.rounds:.2g} increments each time."
        )


def _comparison(plan: Plan, cohorts: list[list[int]], by_round: list[Traffic]) -> list[str]:
    total = sum(by_round, Traffic())
    sent, fedavg = total.total("down") + total.total("up"), fedavg_bytes(plan, cohorts)
    return [
        f"{short(plan.method.name)} would send {units.megabytes(sent)}, and FedAvg {units.megabytes(fedavg)}: "
        f"{units.percent(sent / fedavg)} of FedAvg's bytes, {units.times(sent / fedavg)}.",
        f"Computed for {plan.cohort:,} of {plan.clients:,} clients per round and the codec {plan.codec}, "
        "without the envelopes of messages.",
    ]

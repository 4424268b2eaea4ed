"""The commands that only look: audit, cost, report, config and presets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloru import config as configs
from fedloru import report as reports
from fedloru.cli.app import Overrides, Source, app
from fedloru.config.plan import audited, split
from fedloru.data import Audit, Dataset
from fedloru.method import Profile
from fedloru.report import units
from fedloru.report.profiles import CAPTION, table
from fedloru.run import profiles
from fedloru.run.plan import Plan, cohort
from fedloru.run.summary import fedavg_bytes
from fedloru.wire import KINDS, Traffic, cost_by_profile

if TYPE_CHECKING:
    from rich.table import Table

CLIENTS, CLASSES = 20, 12
"""The table of an audit shows so many clients and classes at most."""


@app.command()
def audit(source: Source = None, overrides: Overrides = None) -> None:
    """Show how the data comes to clients.

    Before training: sizes, label skew, the labels of each client, and a hash of it all. A partition that is not
    sound is refused, with all its problems.
    """
    from rich.console import Console

    chosen = configs.load(source, overrides or ())
    dataset, partition = split(chosen)
    checked = audited(dataset, partition)
    console = Console()
    console.print(_facts([*_audit_facts(dataset, partition.scheme, checked), ("hash", checked.hash)]))
    if len(dataset.classes) == checked.counts.shape[1]:
        console.print(_labels(dataset.classes, checked))


@app.command()
def cost(source: Source = None, overrides: Overrides = None) -> None:
    """Show the bytes of a run, without training.

    By the method's formula: by kind and direction, in total and for a round, and against FedAvg; where clients differ,
    by profile too.
    """
    from rich.console import Console

    plan = configs.plan(configs.load(source, overrides or ()))
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
    each = [sum(account.values(), Traffic()) for account in accounts]
    console.print(_bytes(each, sum(each, Traffic())))
    for by_profile in _by_profile(plan, cohorts, accounts):
        console.print(by_profile)
    for line in _compared(plan, each):
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder, finished or not.")]) -> None:
    """Write the page of a run, report.html."""
    typer.echo(f"Report: {reports.write(folder)}")


@app.command()
def config(source: Source = None, overrides: Overrides = None) -> None:
    """Print the complete configuration as TOML.

    Every default is included; a key that is missing has no value.
    """
    typer.echo(configs.text(configs.load(source, overrides or ())), nl=False)


@app.command()
def presets() -> None:
    """List the configurations that come along."""
    known = configs.presets()
    for name, text in known.items():
        about = text.splitlines()[0].removeprefix("#").strip()
        typer.echo(f"{name:<{max(map(len, known))}}  {about}")


def _audit_facts(dataset: Dataset, scheme: str, checked: Audit) -> Iterator[tuple[str, str]]:
    yield "data", dataset.name
    yield "scheme", scheme
    yield "clients", f"{checked.clients:,}"
    yield "training examples", f"{checked.examples:,}"
    yield "examples on no client", f"{checked.unused:,}"
    for name, spread in (("examples of a client", checked.sizes), ("tokens of a client", checked.tokens)):
        if spread is not None:
            least, middle, most = spread
            yield name, f"{least:,} to {most:,}, median {middle:,g}"
    if dataset.classes:
        yield "label skew", f"{checked.skew:.3f} (0: all alike, 1: nothing in common)"
        yield "classes of a client", f"{checked.classes:.1f} on average"
    yield from ((name, f"{count:,}") for name, count in dataset.notes.items())


def _facts(facts: list[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3, 0, 0))
    for name, value in facts:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _labels(classes: tuple[str, ...], checked: Audit) -> Table:
    from rich import box
    from rich.table import Table

    shown = classes[:CLASSES]
    cut = [] if len(classes) <= CLASSES else [f"{len(classes) - CLASSES} more classes"]
    cut += [] if checked.clients <= CLIENTS else [f"{checked.clients - CLIENTS:,} more clients"]
    table = Table(box=box.SIMPLE_HEAD, title="examples of each class", caption=", ".join(cut) or None)
    for name in ("client", "all", *shown):
        table.add_column(name, justify="right")
    for client, counts in enumerate(checked.counts[:CLIENTS].tolist()):
        table.add_row(str(client), *(f"{count:,}" for count in (sum(counts), *counts[: len(shown)])))
    return table


def _bytes(each: list[Traffic], total: Traffic) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"MB over {len(each):,} rounds")
    for name in ("", "down", "up", "both"):
        table.add_column(name, justify="right" if name else "left")
    spent = [(kind, total.down[kind], total.up[kind]) for kind in KINDS]
    for kind, down, up in [row for row in spent if row[1] or row[2]]:
        table.add_row(kind.replace("_", " "), *_megabytes(down, up))
    table.add_section()
    table.add_row("total", *_megabytes(total.total("down"), total.total("up")), style="bold")
    count = len(each)
    table.add_row("a round, mean", *_megabytes(total.total("down") / count, total.total("up") / count))
    return table


def _by_profile(plan: Plan, cohorts: list[list[int]], accounts: list[dict[Profile, Traffic]]) -> Iterator[Table]:
    """Yield the table of profiles, where clients differ."""
    from rich import box
    from rich.table import Table

    each = [profiles.of_round(plan, chosen, spent) for chosen, spent in zip(cohorts, accounts, strict=True)]
    told = profiles.of_run(plan, each)
    if not told:
        return
    head, rows = table(told["profiles"])
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


def _compared(plan: Plan, each: list[Traffic]) -> list[str]:
    total = sum(each, Traffic())
    sent, fedavg = total.total("down") + total.total("up"), fedavg_bytes(plan, plan.rounds)
    return [
        f"{plan.method.name} would send {units.megabytes(sent)}, FedAvg {units.megabytes(fedavg)}: "
        f"{units.percent(sent / fedavg)} of it, {units.times(sent / fedavg)}.",
        f"Counted for {plan.cohort:,} of {plan.clients:,} clients a round and the codec {plan.codec}; "
        "the envelopes of messages come on top.",
    ]

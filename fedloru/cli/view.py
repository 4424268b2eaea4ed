"""The commands that do not train: audit, cost, report, config and presets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloru import config as configs
from fedloru import report as reports
from fedloru.cli.app import Overrides, Source, app, say
from fedloru.config.plan import audited, planned_method, split
from fedloru.data import Audit, Dataset, size
from fedloru.method import Profile
from fedloru.report import units
from fedloru.report.profiles import CAPTION, table
from fedloru.run import profiles
from fedloru.run.notes import merge_notes, notes
from fedloru.run.plan import Plan, cohort
from fedloru.run.summary import fedavg_bytes
from fedloru.settings import short
from fedloru.wire import KINDS, Traffic, cost_by_profile

if TYPE_CHECKING:
    from rich.table import Table

CLIENTS, CLASSES = 20, 12
"""The maximum numbers of clients and of classes in the table of an audit."""


@app.command()
def audit(source: Source = None, overrides: Overrides = None) -> None:
    """Show how the data is partitioned over clients.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    Prints sizes, label skew, the labels of each client, and a hash of the partition. Nothing is trained. For an invalid
    partition, prints all its problems.
    """
    from rich.console import Console

    chosen = configs.load(source, overrides or ())
    dataset, partition = split(chosen)
    checked = audited(dataset, partition)
    for note in merge_notes(planned_method(chosen, len(partition.train)), chosen.rounds):
        say(f"Note: {note}")
    console = Console()
    examples = size(dataset.test)
    used = min(examples, chosen.eval.examples or examples)
    tested = ("test examples", units.part(used, examples))
    console.print(_facts([*_audit_facts(dataset, partition.scheme, checked), tested, ("hash", checked.hash)]))
    if len(dataset.classes) == checked.columns:
        console.print(_labels(dataset.classes, checked))


@app.command()
def cost(source: Source = None, overrides: Overrides = None) -> None:
    """Show the bytes that a run would send, without training.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    The bytes are computed by the method's formula, and shown by kind and direction, in total and per round, compared
    with FedAvg and, if clients have different profiles, by profile.
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
    by_round = [sum(account.values(), Traffic()) for account in accounts]
    console.print(_bytes(by_round))
    for by_profile in _by_profile(plan, cohorts, accounts):
        console.print(by_profile)
    for note in notes(plan):
        say(f"Note: {note}")
    for line in _comparison(plan, cohorts, by_round):
        console.print(line, highlight=False, soft_wrap=True)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", hidden=True)]) -> None:
    """Write the HTML report of a run, report.html.

    DIR is a run folder, finished or not.
    """
    typer.echo(f"Report: {reports.write(folder)}")


@app.command()
def config(source: Source = None, overrides: Overrides = None) -> None:
    """Print the complete configuration as TOML.

    CONFIG is a TOML file or the name of a preset (default: the demo preset).

    All defaults are included; keys without a value are omitted.
    """
    typer.echo(configs.text(configs.load(source, overrides or ())), nl=False)


@app.command()
def presets() -> None:
    """List the presets, the configurations that come with fedloru."""
    known = configs.presets()
    for name, text in known.items():
        about = text.splitlines()[0].removeprefix("#").strip()
        typer.echo(f"{name:<{max(map(len, known))}}  {about}")


def _audit_facts(dataset: Dataset, scheme: str, checked: Audit) -> Iterator[tuple[str, str]]:
    yield "data", dataset.name
    yield "scheme", scheme
    yield "clients", f"{checked.clients:,}"
    yield "training examples", f"{checked.examples:,}"
    yield "unassigned examples", f"{checked.unused:,}"
    for name, spread in (("examples per client", checked.sizes), ("tokens per client", checked.tokens)):
        if spread is not None:
            smallest, median, largest = spread
            yield name, f"{smallest:,} to {largest:,}, median {median:,g}"
    if dataset.classes:
        yield "label skew", f"{checked.skew:.3f} (0: equal distributions, 1: disjoint)"
        yield "classes per client", f"{checked.classes:.1f} on average"
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
    omitted = [] if len(classes) <= CLASSES else [f"{len(classes) - CLASSES} more classes"]
    omitted += [] if checked.clients <= CLIENTS else [f"{checked.clients - CLIENTS:,} more clients"]
    table = Table(box=box.SIMPLE_HEAD, title="examples by class", caption=", ".join(omitted) or None)
    for name in ("client", "all", *shown):
        table.add_column(name, justify="right")
    for client, counts in enumerate(checked.first(CLIENTS).tolist()):
        table.add_row(str(client), *(f"{count:,}" for count in (sum(counts), *counts[: len(shown)])))
    return table


def _bytes(by_round: list[Traffic]) -> Table:
    from rich import box
    from rich.table import Table

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
    from rich import box
    from rich.table import Table

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


def _comparison(plan: Plan, cohorts: list[list[int]], by_round: list[Traffic]) -> list[str]:
    total = sum(by_round, Traffic())
    sent, fedavg = total.total("down") + total.total("up"), fedavg_bytes(plan, cohorts)
    return [
        f"{short(plan.method.name)} would send {units.megabytes(sent)}, and FedAvg {units.megabytes(fedavg)}: "
        f"{units.percent(sent / fedavg)} of FedAvg's bytes, {units.times(sent / fedavg)}.",
        f"Computed for {plan.cohort:,} of {plan.clients:,} clients per round and the codec {plan.codec}, "
        "without the envelopes of messages.",
    ]

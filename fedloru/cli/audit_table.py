"""The partition of a configuration on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedloru import config as configs
from fedloru.cli.app import say
from fedloru.config.plan import audited, planned_method, split
from fedloru.data import Audit, Dataset, Partition, size
from fedloru.errors import plain
from fedloru.report import units
from fedloru.run.notes import merge_notes

CLIENTS, CLASSES = 20, 12
"""The maximum numbers of clients and of classes in the table."""
NAME = 40
"""The length to which names of clients are cut."""


def show(source: str | None, overrides: Sequence[str]) -> None:
    """Print how the data of a configuration is partitioned.

    Raises:
        FedloruError: the configuration or the partition is invalid.
    """
    chosen = configs.load(source, overrides)
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
        console.print(_labels(dataset.classes, checked, partition))


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
    table = Table.grid(padding=(0, 3, 0, 0))
    for name, value in facts:
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _labels(classes: tuple[str, ...], checked: Audit, partition: Partition) -> Table:
    shown = classes[:CLASSES]
    omitted = [] if len(classes) <= CLASSES else [f"{len(classes) - CLASSES} more classes"]
    omitted += [] if checked.clients <= CLIENTS else [f"{checked.clients - CLIENTS:,} more clients"]
    table = Table(box=box.SIMPLE_HEAD, title="examples by class", caption=", ".join(omitted) or None)
    for name in ("client", "all", *shown):
        table.add_column(name, justify="right")
    for client, counts in enumerate(checked.first(CLIENTS).tolist()):
        label = Text(plain(partition.label(client), NAME))
        table.add_row(label, *(f"{count:,}" for count in (sum(counts), *counts[: len(shown)])))
    return table

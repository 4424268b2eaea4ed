"""The partition of a configuration on the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedloru import config as configs
from fedloru.cli.app import say
from fedloru.cli.output import console, print_json
from fedloru.config.parts import planned_method
from fedloru.config.plan import audited, split
from fedloru.data import Audit, Dataset, Partition, size
from fedloru.errors import counted, plain
from fedloru.report import units
from fedloru.report.columns import Column, Listing, facts
from fedloru.run.notes import merge_notes

CLIENTS, CLASSES = 20, 12
"""The maximum numbers of clients and of classes in the table."""
NAME = 40
"""The length to which names of clients are cut."""


def _spread(sizes: Mapping[str, float]) -> str:
    return f"{sizes['smallest']:,} to {sizes['largest']:,}, median {sizes['median']:,g}"


def _count(number: float) -> str:
    return f"{number:,}"


FACTS = [
    Column("data", "data"),
    Column("scheme", "scheme"),
    Column("clients", "clients", _count),
    Column("training_examples", "training examples", _count),
    Column("unassigned_examples", "unassigned examples", _count),
    Column("examples_per_client", "examples per client", _spread),
    Column("tokens_per_client", "tokens per client", _spread),
    Column("label_skew", "label skew", lambda skew: f"{skew:.3f} (0: equal distributions, 1: disjoint)"),
    Column("classes_per_client", "classes per client", lambda classes: f"{classes:.1f} on average"),
]
LAST_FACTS = [
    Column("test_examples", "test examples", lambda tested: units.part(tested["used"], tested["all"])),
    Column("hash", "hash"),
]


def show(source: str | None, overrides: Sequence[str], as_json: bool) -> None:
    """Print how the data of a configuration is partitioned.

    Raises:
        FedloruError: the configuration or the partition is invalid.
    """
    chosen = configs.load(source, overrides)
    dataset, partition = split(chosen)
    checked = audited(dataset, partition)
    for note in merge_notes(planned_method(chosen, len(partition.train)), chosen.rounds):
        say(f"Note: {note}")
    record = _record(dataset, partition.scheme, checked, chosen.eval.examples)
    classes = dataset.classes if len(dataset.classes) == checked.columns else ()
    if as_json:
        print_json(record | {"examples_by_class": _counts(classes, checked, partition, checked.clients)})
        return
    notes = [Column(name, name, _count) for name in dataset.notes]
    out = console()
    out.print(facts([*FACTS, *notes, *LAST_FACTS], record | record["notes"]))
    out.print(_clients(classes, checked, partition).table())


def _record(dataset: Dataset, scheme: str, checked: Audit, tested: int | None) -> dict[str, Any]:
    examples = size(dataset.test)
    return {
        "data": dataset.name,
        "scheme": scheme,
        "clients": checked.clients,
        "training_examples": checked.examples,
        "unassigned_examples": checked.unused,
        "examples_per_client": _sizes(checked.sizes),
        "tokens_per_client": _sizes(checked.tokens),
        "label_skew": checked.skew if dataset.classes else None,
        "classes_per_client": checked.classes if dataset.classes else None,
        "notes": dict(dataset.notes),
        "test_examples": {"used": min(examples, tested or examples), "all": examples},
        "hash": checked.hash,
    }


def _sizes(spread: tuple[int, float, int] | None) -> dict[str, float] | None:
    return None if spread is None else dict(zip(("smallest", "median", "largest"), spread, strict=True))


def _counts(classes: tuple[str, ...], checked: Audit, partition: Partition, clients: int) -> list[dict[str, Any]]:
    """Return the examples of the first clients: of each, the number of all, by class, and of tokens for texts."""
    tokens = [] if checked.tokens_of is None else checked.tokens_of[:clients].tolist()
    return [
        {
            "client": client,
            "name": partition.label(client),
            "all": sum(counts),
            **({"tokens": tokens[client]} if tokens else {}),
            "classes": dict(zip(classes, counts, strict=True)) if classes else {},
        }
        for client, counts in enumerate(checked.first(clients).tolist())
    ]


def _clients(classes: tuple[str, ...], checked: Audit, partition: Partition) -> Listing:
    shown = classes[:CLASSES]
    omitted = [] if len(classes) <= CLASSES else [counted(len(classes) - CLASSES, "more class", "more classes")]
    omitted += [] if checked.clients <= CLIENTS else [counted(checked.clients - CLIENTS, "more client")]
    columns = [
        Column("name", "client", lambda name: plain(name, NAME), right=True),
        Column("all", "all", _count, right=True),
    ]
    columns += [Column("tokens", "tokens", _count, right=True)] if checked.tokens_of is not None else []
    columns += [Column(f"class {name}", name, _count, right=True) for name in shown]
    rows = [
        row | {f"class {name}": count for name, count in row["classes"].items()}
        for row in _counts(classes, checked, partition, CLIENTS)
    ]
    title = "examples by class" if classes else "examples of each client"
    return Listing(columns, rows, title, ", ".join(omitted) or None)

"""The report of one run as an HTML page, which needs no network and no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedloru.errors import counted
from fedloru.files import write_atomic
from fedloru.report import blocks, clients, plotly_script, units
from fedloru.report.records import Records, outcome, read
from fedloru.report.results import results, studies
from fedloru.schema import FEDERATION, shown
from fedloru.settings import short

REPORT = "report.html"

AUDIT = {
    "clients": "clients",
    "examples": "training examples",
    "unused": "unassigned examples",
    "test_examples": "test examples",
    "min": "examples per client, minimum",
    "median": "examples per client, median",
    "max": "examples per client, maximum",
    "skew": "label skew, 0 (none) to 1",
    "mean_classes": "classes per client, mean",
    "min_tokens": "tokens per client, minimum",
    "median_tokens": "tokens per client, median",
    "max_tokens": "tokens per client, maximum",
}


def write(folder: str | Path, *, self_contained: bool = False) -> Path:
    """Write the page of a run to its folder and return the path of the page.

    The page loads plotly from a file next to the run folder, which all runs there share. A ``self_contained`` page, or
    that of a run folder in the working directory, embeds it, and so can be sent as a single file.

    Raises:
        RunFolderError: the folder does not exist, is not a run folder, or contains a file that cannot be read.
    """
    path = Path(folder) / REPORT
    with shown(folder):
        records = read(folder)
        script = plotly_script.embedded() if self_contained else plotly_script.shared(path.parent)
        text = page(records, script)
    write_atomic(path, text.encode(errors="replace"))  # text from files may contain lone surrogates
    return path


def page(records: Records, script: str | None = None) -> str:
    """Return the page of a run, finished or not; ``script`` is the HTML element that loads plotly (None: embeds it)."""
    summary = outcome(records)
    parts = [
        _header(records, summary),
        *results(records, summary),
        *studies(records),
        *_data(records),
        *_setup(records, summary),
    ]
    return blocks.document(f"{records.name} · fedloru", parts, script or plotly_script.embedded())


def _header(records: Records, summary: Mapping[str, Any]) -> str:
    config = records.config
    method = summary.get("method") or config.get("method", {}).get("name", "")
    facts = [counted(summary["rounds"], "round")]
    if "clients" in summary and "cohort" in summary:
        facts.append(f"{summary['clients']:,} clients, {summary['cohort']:,} in each round")
    if "seed" in summary or "seed" in config:
        facts.append(f"seed {summary.get('seed', config.get('seed'))}")
    return blocks.header(short(str(method)), records.name, facts, _notes(records, summary))


def _notes(records: Records, summary: Mapping[str, Any]) -> Iterator[str]:
    planned = records.config.get("rounds", "?")
    if not records.rounds:
        yield "No rounds have been recorded yet. This page shows only the data and the setup of the run."
    elif not records.summary:
        yield f"This run is not finished: the page shows the {summary['rounds']} of {planned} rounds recorded so far."
    elif summary.get("ended") and isinstance(planned, int) and summary["rounds"] < planned:
        yield f"The run ended after {summary['rounds']} of {planned} rounds: {summary['ended']}."
    if summary.get("bytes_measured") is False:
        yield "Byte counts on this page are computed from the method's formula, not measured."
    yield from (f"{note[:1].upper()}{note[1:]}." for note in summary.get("notes", []))
    yield from records.partition.get("remarks", ())


def _data(records: Records) -> Iterator[str]:
    from fedloru.report import partition_figure

    partition, cards = records.partition, []
    if partition.get("counts"):
        cards.append(
            blocks.figure(
                "Examples per client", partition_figure.skew(records), partition_figure.caption(records), wide=True
            )
        )
    audit = {AUDIT.get(name, name): units.plain(value) for name, value in partition.get("audit", {}).items()}
    settings = ", ".join(f"{name} = {value}" for name, value in partition.get("settings", {}).items())
    if partition.get("scheme") == FEDERATION:
        yield blocks.section("Data", _own_data(records))
        return
    facts = {
        "scheme": partition.get("scheme"),
        "settings": settings,
        "seed": partition.get("seed"),
        "hash": partition.get("hash"),
    }
    yield blocks.section("Data", [*cards, *_facts("Partition", facts), *_facts("Partition statistics", audit)])


def _own_data(records: Records) -> Iterator[str]:
    audit = records.partition.get("audit", {})
    facts = {"clients": audit.get("clients"), **clients.stated(records)}
    table = blocks.table((), [(name, units.plain(value)) for name, value in facts.items() if value is not None])
    caption = "Each client trains on its own data, which the server does not know."
    yield blocks.card("Data of the clients", table, caption)
    server = {AUDIT.get(name, name): units.plain(value) for name, value in audit.items() if name != "clients"}
    yield from _facts("Data of the server", server)


def _setup(records: Records, summary: Mapping[str, Any]) -> Iterator[str]:
    trained, parameters = summary.get("trained_parameters"), summary.get("parameters")
    share = f"{trained:,} of {parameters:,} ({units.percent(trained / parameters)})" if trained and parameters else None
    engine = {"engine": summary.get("engine"), "reason": summary.get("engine_reason"), "trained parameters": share}
    listing = blocks.listing("Configuration (TOML)", tomli_w.dumps(records.config))
    cards = [*_facts("Engine", engine), *_facts("Software", summary.get("versions", {})), listing]
    yield blocks.section("Setup", cards)


def _facts(title: str, facts: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
    if rows:
        yield blocks.card(title, blocks.table((), rows))

"""The report of one run as an HTML page, which needs no network and no server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from fedloru.errors import counted
from fedloru.files import write_atomic
from fedloru.report import blocks, client_scores, clients, generations, plotly_script, profiles, units, wording
from fedloru.report.headline import headline
from fedloru.report.records import Records, evaluations, outcome, personal, read
from fedloru.schema import FEDERATION, metric_names, shown
from fedloru.settings import short

if TYPE_CHECKING:
    import plotly.graph_objects as go

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
        *_results(records, summary),
        *_studies(records),
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


def _results(records: Records, summary: Mapping[str, Any]) -> Iterator[str]:
    if records.rounds:
        yield blocks.tiles(headline(summary))
        yield blocks.section("Learning curves", _curves(records, summary))
        yield blocks.section("Generated texts", generations.cards(records.written))
        yield blocks.section("Diagnostics", _diagnostics(records))
        yield blocks.section("Clients", _clients(records))
        yield blocks.section("Communication", _communication(records, summary))


def _curves(records: Records, summary: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import figures

    caption = (
        "Dotted lines: merges of the factors into the base." if any(row["merged"] for row in records.rounds) else ""
    )
    if evaluations(records, "test_perplexity"):
        yield _figure("Perplexity over rounds", figures.perplexity(records), caption)
    if evaluations(records):
        yield _figure("Accuracy over rounds", figures.accuracy(records), caption)
    yield _figure("Loss over rounds", figures.loss(records), caption)
    for name in metric_names(records.rounds):
        if evaluations(records, f"test_{name}"):
            yield _figure(f"{_upper(wording.metric(name))} over rounds", figures.metric(records, name), caption)
    if evaluations(records):
        yield _figure("Accuracy over bytes", figures.accuracy_over_bytes(records), "1 MB = 10⁶ bytes.")
    if evaluations(records, "test_loss"):
        yield _figure("Loss over bytes", figures.loss_over_bytes(records), "1 MB = 10⁶ bytes.")
    if any(evaluations(records, field) for field in figures.SHARES):
        yield _figure("Other scores", figures.shares(records), caption)
    if scores := personal(records.rounds):
        clients = scores["shared"]["clients"]
        caption = f"Mean over {clients:,} clients, the same ones at every evaluation. Dotted: mean of the worst 10 %."
        name = wording.loss(summary) if wording.is_regression(summary) else "accuracy"
        yield _figure(f"{_upper(name)} on local test sets", figures.personal(records), caption, wide=True)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _diagnostics(records: Records) -> Iterator[str]:
    from fedloru.report import site_figures

    for kind in site_figures.kinds(records):
        what = f"{kind.capitalize()} rank of the total update Wₜ − W₀, of increments, and of updates of one client"
        yield _at_sites(f"{kind.capitalize()} ranks", records, site_figures.ranks(records, kind), what)
    if fields := site_figures.overlaps(records):
        what = "Overlap between the column and row spaces of consecutive increments, beyond chance level"
        yield _at_sites("Overlap of consecutive increments", records, fields, what)
    yield from _of_the_model(records)


def _at_sites(title: str, records: Records, fields: Mapping[str, str], what: str) -> str:
    from fedloru.report import site_figures

    caption = site_figures.caption(records, what)
    if site_figures.is_trend(records, fields):
        return _figure(title, site_figures.figure(records, fields), caption, wide=True)
    return blocks.card(title, blocks.scrolled(blocks.table(*site_figures.table(records, fields))), caption, wide=True)


def _of_the_model(records: Records) -> Iterator[str]:
    """Yield a figure for each diagnostic that shows a trend, and one card for all others."""
    from fedloru.report import diagnostics

    measured = diagnostics.measured(records)
    constants = diagnostics.constants(measured)
    varying = {name: series for name, series in measured.items() if name not in constants}
    trends = diagnostics.trends(varying)
    for title, series in trends.items():
        yield _figure(_upper(title), diagnostics.figure(records, series), diagnostics.caption(title))
    few = {name: series for name, series in varying.items() if not any(name in shown for shown in trends.values())}
    table = blocks.scrolled(blocks.table(*diagnostics.table(few))) if few else ""
    if few or constants:
        sentences = "".join(map(blocks.paragraph, constants.values()))
        yield blocks.card("Diagnostics of the model", table + sentences, diagnostics.coverage(records), wide=True)


def _studies(records: Records) -> Iterator[str]:
    if records.ranks:
        yield blocks.section("Curvature", chain.from_iterable(map(_curvature, records.ranks)))
    if records.alignment:
        yield blocks.section("Gradient alignment", chain.from_iterable(map(_alignment, records.alignment)))


def _curvature(study: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import study_figures

    after = f"after round {study['of']['round']}"
    for kind, spectra in study_figures.by_kind(study).items():
        yield _figure(
            f"Stable rank of the {kind} {after}", study_figures.stable_ranks(spectra), study_figures.caption(study)
        )
        yield _figure(
            f"Spectrum of the {kind} {after}", study_figures.spectra(spectra), study_figures.spectra_caption(spectra)
        )


def _alignment(study: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import study_figures

    after = f"after round {study['of']['round']}"
    yield _figure(
        f"Gradients truncated to low rank {after}",
        study_figures.alignment(study),
        study_figures.alignment_caption(study),
    )
    if "eigenspace" in study:
        yield _figure(
            f"Gradients in the top eigenspace of the Hessian {after}",
            study_figures.shares(study),
            study_figures.shares_caption(study),
        )


def _communication(records: Records, summary: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import figures

    if any(row.get("bytes") for row in records.rounds):
        yield _figure("Bytes over rounds", figures.bytes_by_kind(records), "Cumulative bytes sent, by kind.")
    yield blocks.column([blocks.card("Total bytes", _kinds(summary)), *_fedavg(summary)])
    if summary.get("profiles"):
        table = blocks.table(*profiles.listing(summary["profiles"]).texts(), total=True)
        yield blocks.card("Bytes by profile", blocks.scrolled(table), profiles.CAPTION, wide=True)


def _clients(records: Records) -> Iterator[str]:
    yield from _client_scores(records)
    if not clients.is_federation(records):
        return
    from fedloru.report import participation

    head, rows = clients.table(records)
    caption = clients.which(clients.clients(records), clients.ROWS) + clients.CAPTION
    yield blocks.card("Clients by name", blocks.scrolled(blocks.table(head, rows)), caption, wide=True)
    figure, caption = participation.participation(records), participation.caption(records)
    yield _figure("Participation", figure, caption, wide=True)
    if refusals := clients.refusals(records):
        caption = f"The last {clients.REFUSALS} of {len(refusals):,}." if len(refusals) > clients.REFUSALS else ""
        table = blocks.table(("round", "client", "reason"), clients.refusal_rows(refusals), texts=True)
        yield blocks.card("Replies that were not used", table, caption, wide=True)


def _client_scores(records: Records) -> Iterator[str]:
    found = client_scores.courses(records)
    if not found:
        return
    table = blocks.scrolled(blocks.table(*client_scores.listing(records).texts()))
    yield blocks.card("Scores of clients", table, client_scores.caption(records), wide=True)
    if any(one.change is not None for one in found):
        caption = (
            "From the first score of each client to its last one, which has a dot; those that got worse most first."
        )
        yield _figure("Change of each client", client_scores.figure(records), caption, wide=True)


def _kinds(summary: Mapping[str, Any]) -> str:
    down, up = summary["bytes"]["down"], summary["bytes"]["up"]
    kinds = [kind for kind in dict.fromkeys([*down, *up]) if down.get(kind) or up.get(kind)]
    counts = [(kind.replace("_", " "), down.get(kind, 0), up.get(kind, 0)) for kind in kinds]
    counts.append(("total", summary["down_bytes_total"], summary["up_bytes_total"]))
    digits = 3 if summary["down_bytes_total"] + summary["up_bytes_total"] < 1e8 else 1
    rows = [(kind, *(f"{n / 1e6:,.{digits}f}" for n in (d, u, d + u))) for kind, d, u in counts]
    return blocks.table(("MB", "down", "up", "total"), rows, total=True)


def _fedavg(summary: Mapping[str, Any]) -> Iterator[str]:
    if fedavg := summary.get("fedavg_bytes_total"):
        sent = summary["up_bytes_total"] + summary["down_bytes_total"]
        bars = [
            ("This run, up + down", sent, units.megabytes(sent)),
            ("FedAvg, up + down (by formula)", fedavg, units.megabytes(fedavg)),
        ]
        caption = "FedAvg sends all parameters down and up, for the same clients in the same rounds."
        yield blocks.card("Compared with FedAvg", blocks.bars(bars), caption)


def _data(records: Records) -> Iterator[str]:
    from fedloru.report import partition_figure

    partition, cards = records.partition, []
    if partition.get("counts"):
        cards.append(
            _figure("Examples per client", partition_figure.skew(records), partition_figure.caption(records), wide=True)
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


def _figure(title: str, figure: go.Figure, caption: str, *, wide: bool = False) -> str:
    name = re.sub(r"\W+", "-", title.lower())  # a metric may have any name
    return blocks.card(title, blocks.plot(name, figure), caption, wide=wide)

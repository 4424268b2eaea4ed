"""The sections of a page that show results: curves, diagnostics, studies, scores of clients and communication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from fedloru.report import blocks, client_scores, clients, generations, profiles, units, wording
from fedloru.report.headline import headline
from fedloru.report.records import Records, evaluations, personal
from fedloru.schema import metric_names


def results(records: Records, summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the headline numbers and the sections of the results; nothing if no round has been recorded."""
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
        yield blocks.figure("Perplexity over rounds", figures.perplexity(records), caption)
    if evaluations(records):
        yield blocks.figure("Accuracy over rounds", figures.accuracy(records), caption)
    yield blocks.figure("Loss over rounds", figures.loss(records), caption)
    for name in metric_names(records.rounds):
        if evaluations(records, f"test_{name}"):
            yield blocks.figure(f"{_upper(wording.metric(name))} over rounds", figures.metric(records, name), caption)
    if evaluations(records):
        yield blocks.figure("Accuracy over bytes", figures.accuracy_over_bytes(records), "1 MB = 10⁶ bytes.")
    if evaluations(records, "test_loss"):
        yield blocks.figure("Loss over bytes", figures.loss_over_bytes(records), "1 MB = 10⁶ bytes.")
    if any(evaluations(records, field) for field in figures.SHARES):
        yield blocks.figure("Other scores", figures.shares(records), caption)
    if scores := personal(records.rounds):
        clients = scores["shared"]["clients"]
        caption = f"Mean over {clients:,} clients, the same ones at every evaluation. Dotted: mean of the worst 10 %."
        name = wording.loss(summary) if wording.is_regression(summary) else "accuracy"
        yield blocks.figure(f"{_upper(name)} on local test sets", figures.personal(records), caption, wide=True)


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
        return blocks.figure(title, site_figures.figure(records, fields), caption, wide=True)
    return blocks.card(title, blocks.scrolled(blocks.table(*site_figures.table(records, fields))), caption, wide=True)


def _of_the_model(records: Records) -> Iterator[str]:
    """Yield a figure for each diagnostic that shows a trend, and one card for all others."""
    from fedloru.report import diagnostics

    measured = diagnostics.measured(records)
    constants = diagnostics.constants(measured)
    varying = {name: series for name, series in measured.items() if name not in constants}
    trends = diagnostics.trends(varying)
    for title, series in trends.items():
        yield blocks.figure(_upper(title), diagnostics.figure(records, series), diagnostics.caption(title))
    few = {name: series for name, series in varying.items() if not any(name in shown for shown in trends.values())}
    table = blocks.scrolled(blocks.table(*diagnostics.table(few))) if few else ""
    if few or constants:
        sentences = "".join(map(blocks.paragraph, constants.values()))
        yield blocks.card("Diagnostics of the model", table + sentences, diagnostics.coverage(records), wide=True)


def studies(records: Records) -> Iterator[str]:
    """Yield the sections of the studies of curvature and of gradients, if there are any."""
    if records.ranks:
        yield blocks.section("Curvature", chain.from_iterable(map(_curvature, records.ranks)))
    if records.alignment:
        yield blocks.section("Gradient alignment", chain.from_iterable(map(_alignment, records.alignment)))


def _curvature(study: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import study_figures

    after = f"after round {study['of']['round']}"
    for kind, spectra in study_figures.by_kind(study).items():
        yield blocks.figure(
            f"Stable rank of the {kind} {after}", study_figures.stable_ranks(spectra), study_figures.caption(study)
        )
        yield blocks.figure(
            f"Spectrum of the {kind} {after}", study_figures.spectra(spectra), study_figures.spectra_caption(spectra)
        )


def _alignment(study: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import study_figures

    after = f"after round {study['of']['round']}"
    yield blocks.figure(
        f"Gradients truncated to low rank {after}",
        study_figures.alignment(study),
        study_figures.alignment_caption(study),
    )
    if "eigenspace" in study:
        yield blocks.figure(
            f"Gradients in the top eigenspace of the Hessian {after}",
            study_figures.shares(study),
            study_figures.shares_caption(study),
        )


def _communication(records: Records, summary: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import figures

    if any(row.get("bytes") for row in records.rounds):
        yield blocks.figure("Bytes over rounds", figures.bytes_by_kind(records), "Cumulative bytes sent, by kind.")
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
    yield blocks.figure("Participation", figure, caption, wide=True)
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
        yield blocks.figure("Change of each client", client_scores.figure(records), caption, wide=True)


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

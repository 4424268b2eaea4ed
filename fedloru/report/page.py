"""One run as one HTML page that needs nothing else: no network, no second file, no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from fedloru.files import write_atomic
from fedloru.report import blocks, generations, profiles, units
from fedloru.report.headline import headline
from fedloru.report.records import Records, evaluations, outcome, personal, read

if TYPE_CHECKING:
    import plotly.graph_objects as go

REPORT = "report.html"

AUDIT = {
    "clients": "clients",
    "examples": "training examples",
    "unused": "examples on no client",
    "min": "examples on the smallest client",
    "median": "examples on the median client",
    "max": "examples on the largest client",
    "skew": "label skew, 0 (none) to 1",
    "mean_classes": "classes on a client, mean",
    "min_tokens": "tokens on the smallest client",
    "median_tokens": "tokens on the median client",
    "max_tokens": "tokens on the largest client",
}


def write(folder: str | Path) -> Path:
    """Write the page of a run into its folder and return the page's path.

    Raises:
        RunFolderError: the folder is missing, is not a run folder, or holds a file that cannot be read.
    """
    path = Path(folder) / REPORT
    write_atomic(path, page(read(folder)).encode())
    return path


def page(records: Records) -> str:
    """Return the page of a run, finished or not; plotly's script is inside, so that it is about 5 MB."""
    from plotly.offline import get_plotlyjs

    told = outcome(records)
    parts = [
        _header(records, told),
        *_results(records, told),
        *_studied(records),
        *_data(records),
        *_setup(records, told),
    ]
    return blocks.document(f"{records.name} · fedloru", parts, get_plotlyjs())


def _header(records: Records, told: Mapping[str, Any]) -> str:
    config = records.config
    method = told.get("method") or config.get("method", {}).get("name", "")
    facts = [f"{told['rounds']:,} round{'s' * (told['rounds'] != 1)}"]
    if "clients" in told and "cohort" in told:
        facts.append(f"{told['clients']:,} clients, {told['cohort']:,} in each round")
    if "seed" in told or "seed" in config:
        facts.append(f"seed {told.get('seed', config.get('seed'))}")
    return blocks.header(str(method), records.name, facts, _notes(records, told))


def _notes(records: Records, told: Mapping[str, Any]) -> Iterator[str]:
    planned = records.config.get("rounds", "?")
    if not records.rounds:
        yield "No round has been recorded yet, so there is nothing to draw: below is how the run was set up."
    elif not records.summary:
        yield f"This run is not finished: the page shows the {told['rounds']} of {planned} rounds recorded so far."
    if told.get("bytes_measured") is False:
        yield "Bytes on this page come from the method's formula, not from real messages."


def _results(records: Records, told: Mapping[str, Any]) -> Iterator[str]:
    if records.rounds:
        yield blocks.tiles(headline(told))
        yield blocks.section("Learning", _learning(records))
        yield blocks.section("Writing", generations.cards(records.written))
        yield blocks.section("Inside", _inside(records))
        yield blocks.section("Traffic", _traffic(records, told))


def _learning(records: Records) -> Iterator[str]:
    from fedloru.report import figures

    merged = "Dotted lines: factors merged into the base." if any(row["merged"] for row in records.rounds) else ""
    if evaluations(records, "test_perplexity"):
        yield _figure("Perplexity over rounds", figures.perplexity(records), merged)
    if evaluations(records):
        yield _figure("Accuracy over rounds", figures.accuracy(records), merged)
    yield _figure("Loss over rounds", figures.loss(records), merged)
    if evaluations(records):
        yield _figure("Accuracy over bytes", figures.accuracy_over_bytes(records), "MB are 10⁶ bytes.")
    if evaluations(records, "test_loss"):
        yield _figure("Loss over bytes", figures.loss_over_bytes(records), "MB are 10⁶ bytes.")
    if any(evaluations(records, field) for field in figures.SHARES):
        yield _figure("Other scores", figures.shares(records), merged)
    if spreads := personal(records.rounds):
        clients = spreads["shared"]["clients"]
        caption = f"Mean of {clients:,} clients, the same in every evaluation; dotted: the mean of their worst tenth."
        yield _figure("Personal accuracy", figures.personal(records), caption, wide=True)


def _inside(records: Records) -> Iterator[str]:
    from fedloru.report import diagnostics

    for kind in diagnostics.kinds(records):
        title = f"{kind.capitalize()} ranks"
        yield _figure(title, diagnostics.ranks(records, kind), diagnostics.caption(records, kind), wide=True)
    if diagnostics.compared(records):
        caption = "How far the column and row spaces of an increment are those of the one before: 0 by chance, 1 equal."
        yield _figure("Increments", diagnostics.overlaps(records), caption, wide=True)
    if any(row.get("diagnostics") for row in records.rounds):
        yield _figure(
            "Diagnostics", diagnostics.diagnostics(records), "One number a round for the whole model.", wide=True
        )


def _studied(records: Records) -> Iterator[str]:
    if records.ranks:
        yield blocks.section("Ranks of curvature", chain.from_iterable(map(_curvature, records.ranks)))
    if records.alignment:
        yield blocks.section("Agreement of gradients", chain.from_iterable(map(_agreement, records.alignment)))


def _curvature(study: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import study_figures

    after = f"after round {study['of']['round']}"
    for kind, found in study_figures.by_kind(study).items():
        yield _figure(
            f"Stable rank of the {kind} {after}", study_figures.stable_ranks(found), study_figures.caption(study)
        )
        yield _figure(
            f"Spectrum of the {kind} {after}", study_figures.spectra(found), study_figures.spectra_caption(found)
        )


def _agreement(study: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import study_figures

    after = f"after round {study['of']['round']}"
    yield _figure(
        f"Gradients cut to low rank {after}", study_figures.alignment(study), study_figures.alignment_caption(study)
    )
    if "eigenspace" in study:
        yield _figure(
            f"Gradients in the top of curvature {after}",
            study_figures.shares(study),
            study_figures.shares_caption(study),
        )


def _traffic(records: Records, told: Mapping[str, Any]) -> Iterator[str]:
    from fedloru.report import figures

    if any(row.get("bytes") for row in records.rounds):
        yield _figure(
            "Bytes over rounds", figures.bytes_by_kind(records), "All that was sent so far, by what it was for."
        )
    yield blocks.column([blocks.card("Bytes in total", _kinds(told)), *_fedavg(told)])
    if told.get("profiles"):
        numbers = blocks.table(*profiles.table(told["profiles"]), total=True)
        yield blocks.card("Bytes by profile", blocks.scrolled(numbers), profiles.CAPTION, wide=True)


def _kinds(told: Mapping[str, Any]) -> str:
    down, up = told["bytes"]["down"], told["bytes"]["up"]
    kinds = [kind for kind in dict.fromkeys([*down, *up]) if down.get(kind) or up.get(kind)]
    counts = [(kind.replace("_", " "), down.get(kind, 0), up.get(kind, 0)) for kind in kinds]
    counts.append(("total", told["down_bytes_total"], told["up_bytes_total"]))
    digits = 3 if told["down_bytes_total"] + told["up_bytes_total"] < 1e8 else 1
    rows = [(kind, *(f"{n / 1e6:,.{digits}f}" for n in (d, u, d + u))) for kind, d, u in counts]
    return blocks.table(("MB", "down", "up", "both"), rows, total=True)


def _fedavg(told: Mapping[str, Any]) -> Iterator[str]:
    if fedavg := told.get("fedavg_bytes_total"):
        sent = told["up_bytes_total"] + told["down_bytes_total"]
        compared = [
            ("This run, both directions", sent, units.megabytes(sent)),
            ("FedAvg would have sent (by formula)", fedavg, units.megabytes(fedavg)),
        ]
        caption = "FedAvg: all parameters down and up, for the same clients in the same rounds."
        yield blocks.card("Compared with FedAvg", blocks.bars(compared), caption)


def _data(records: Records) -> Iterator[str]:
    from fedloru.report import partition_figure

    split, cards = records.partition, []
    if split.get("counts"):
        cards.append(
            _figure("Who holds what", partition_figure.skew(records), partition_figure.caption(records), wide=True)
        )
    audit = {AUDIT.get(name, name): units.plain(value) for name, value in split.get("audit", {}).items()}
    settings = ", ".join(f"{name} = {value}" for name, value in split.get("settings", {}).items())
    made = {"scheme": split.get("scheme"), "settings": settings, "seed": split.get("seed"), "hash": split.get("hash")}
    yield blocks.section("Data", [*cards, *_facts("Partition", made), *_facts("Its audit", audit)])


def _setup(records: Records, told: Mapping[str, Any]) -> Iterator[str]:
    trained, parameters = told.get("trained_parameters"), told.get("parameters")
    share = f"{trained:,} of {parameters:,} ({units.percent(trained / parameters)})" if trained and parameters else None
    engine = {"engine": told.get("engine"), "because": told.get("engine_reason"), "trained parameters": share}
    listing = blocks.listing("Configuration (TOML)", tomli_w.dumps(records.config))
    cards = [*_facts("Engine", engine), *_facts("Versions", told.get("versions", {})), listing]
    yield blocks.section("Set-up", cards)


def _facts(title: str, facts: Mapping[str, Any]) -> Iterator[str]:
    rows = [(name, str(value)) for name, value in facts.items() if value not in (None, "")]
    if rows:
        yield blocks.card(title, blocks.table((), rows))


def _figure(title: str, figure: go.Figure, caption: str, *, wide: bool = False) -> str:
    return blocks.card(title, blocks.plot(title.lower().replace(" ", "-"), figure), caption, wide=wide)

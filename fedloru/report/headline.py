"""The figures a run is known by, the same on its page and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedloru.report import units


def headline(told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each figure of a summary (or of ``outcome``) as its label, its value and what it is about."""
    share = of_fedavg(told)
    per_round = told["seconds"] / told["rounds"] if told["rounds"] else None
    yield (
        "Final accuracy" if told.get("finished", True) else "Accuracy so far",
        units.percent(told["final_accuracy"]),
        "on the test set",
    )
    if "final_perplexity" in told:
        yield "Perplexity", units.decimal(told["final_perplexity"]), "of the test tokens"
    else:
        yield "Mean of the last five", units.percent(told["last5_accuracy"]), "evaluations"
    yield "Sent up", units.megabytes(told["up_bytes_total"]), "clients to server"
    yield "Sent down", units.megabytes(told["down_bytes_total"]), "server to clients"
    yield "Of FedAvg's bytes", units.percent(share), f"{units.times(share)} (by formula)" if share else "not known yet"
    yield "Merges", f"{told['merges']:,}", "factors into the base"
    yield "Time", units.duration(told["seconds"]), f"{units.duration(per_round)} a round"
    yield "Peak memory", units.memory(told.get("peak_rss_bytes")), "of the process"
    yield from _personal(told.get("personal") or {})


def _personal(spreads: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, str, str]]:
    for model, spread in spreads.items():
        about = f"mean of {spread['clients']:,} clients, own tests"
        yield f"{model.capitalize()} model", units.percent(spread["mean"]), about
        if "perplexity" in spread:
            yield "Its perplexity", units.decimal(spread["perplexity"]), "e to the mean of these clients' losses"
        yield "Its worst tenth", units.percent(spread["bottom_decile"]), "mean of these clients"


def of_fedavg(told: Mapping[str, Any]) -> float | None:
    """Return the bytes sent, both ways, as a share of what FedAvg would have sent by formula; None if not known."""
    fedavg = told.get("fedavg_bytes_total")
    return (told["up_bytes_total"] + told["down_bytes_total"]) / fedavg if fedavg else None

"""The headline numbers of a run, shown both on its page and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedloru.report import units, wording
from fedloru.schema import metric_names


def headline(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the headline numbers of a summary (or of ``outcome``), each as a label, a value and an explanation."""
    share = of_fedavg(summary)
    per_round = summary["seconds"] / summary["rounds"] if summary["rounds"] else None
    yield from _scores(summary)
    if "final_exact_match" in summary:
        yield "Exact match", units.percent(summary["final_exact_match"]), "of the generated answers"
    if "final_perplexity" in summary:
        yield "Perplexity", units.decimal(summary["final_perplexity"]), "of the test tokens"
    elif not wording.is_regression(summary):
        yield "Mean accuracy", units.percent(summary["last5_accuracy"]), "over the last evaluations, at most five"
    yield from _best(summary)
    yield "Uploaded", units.megabytes(summary["up_bytes_total"]), "clients to server"
    yield "Downloaded", units.megabytes(summary["down_bytes_total"]), "server to clients"
    yield (
        "Share of FedAvg's bytes",
        units.percent(share),
        f"{units.times(share)} (by formula)" if share else "not known yet",
    )
    yield "Merges", f"{summary['merges']:,}", "of factors into the base"
    yield "Time", units.duration(summary["seconds"]), f"{units.duration(per_round)} per round"
    yield "Peak memory", units.memory(summary.get("peak_rss_bytes")), "of the process"
    yield from _personal(summary.get("personal") or {}, wording.loss(summary))


def _best(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the round of the best evaluation, if it is not the last one."""
    best = summary.get("best")
    if best and best["round"] != summary["rounds"]:
        yield "Best round", f"{best['round']:,}", f"{best['by']}: {units.digits(best['score'])}"


def _scores(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the scores on the test set: the accuracy, or the loss of a regression, and further metrics."""
    final = "Final {}" if summary.get("finished", True) else "{} so far"
    if wording.is_regression(summary):
        yield _titled(final, wording.loss(summary)), wording.value(summary["final_loss"]), _test_set(summary)
    else:
        yield _titled(final, "accuracy"), units.percent(summary["final_accuracy"]), _test_set(summary)
    fields = (key.removeprefix("final_") for key in summary if key.startswith("final_"))
    for name in metric_names([{f"test_{field}": None for field in fields if field != "exact_match"}]):
        label = wording.metric(name)
        yield label[:1].upper() + label[1:], wording.value(summary[f"final_{name}"]), _test_set(summary)


def _titled(form: str, name: str) -> str:
    text = form.format(name)
    return text[:1].upper() + text[1:]


def _personal(scores: Mapping[str, Mapping[str, float]], loss: str) -> Iterator[tuple[str, str, str]]:
    for model, score in scores.items():
        name = f"{model.capitalize()} model"
        if "mean" not in score:
            clients = f"{score['clients']:,} clients on local test sets"
            yield f"{name}, {loss}", wording.value(score["loss"]), f"mean of {clients}"
            worst = wording.value(score["worst_loss"])
            yield f"{name}, worst 10 %", worst, "mean of the worst 10 % of these clients"
            continue
        yield name, units.percent(score["mean"]), f"mean of {score['clients']:,} clients on local test sets"
        if "perplexity" in score:
            yield f"{name}, perplexity", units.decimal(score["perplexity"]), "exp of the mean of these clients' losses"
        yield f"{name}, worst 10 %", units.percent(score["bottom_decile"]), "mean of the worst 10 % of these clients"


def _test_set(summary: Mapping[str, Any]) -> str:
    used, all = summary.get("test_examples"), summary.get("all_test_examples")
    return "on the test set" if used == all else f"on {units.part(used or 0, all or 0)} test examples"


def of_fedavg(summary: Mapping[str, Any]) -> float | None:
    """Return the bytes sent, up plus down, as a fraction of FedAvg's by formula; None if FedAvg's are not known."""
    fedavg = summary.get("fedavg_bytes_total")
    return (summary["up_bytes_total"] + summary["down_bytes_total"]) / fedavg if fedavg else None

"""The results of a run: the contents of ``summary.json``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from fedloru import tree
from fedloru.engine import Chosen
from fedloru.errors import listed, plain, quoted
from fedloru.methods import fedavg
from fedloru.net.loss import name_of
from fedloru.run import profiles
from fedloru.run.best import best, ending
from fedloru.run.notes import notes
from fedloru.run.plan import Plan
from fedloru.run.record import latest_scores
from fedloru.run.sampling import cohort, test_sizes
from fedloru.schema import metric_names
from fedloru.wire import Traffic, cost


def summarise(plan: Plan, rows: list[dict[str, Any]], traffic: Traffic, engine: Chosen) -> dict[str, Any]:
    """Return the summary of a run so far, in bytes, seconds and nats."""
    accuracies = [row["test_accuracy"] for row in rows if row["test_accuracy"] is not None]
    losses = [row["test_loss"] for row in rows if row["test_loss"] is not None]
    perplexities = [row["test_perplexity"] for row in rows if "test_perplexity" in row]
    matches = [row["exact_match"] for row in rows if "exact_match" in row]
    last5 = accuracies[-5:]
    used, examples = test_sizes(plan)
    trained = plan.method.init(plan.net, plan.seed).shared
    return {
        "method": plan.method.name,
        "task": plan.dataset.task,
        "loss": loss_name(plan),
        "rounds": len(rows),
        "final_accuracy": accuracies[-1] if accuracies else None,
        "last5_accuracy": sum(last5) / len(last5) if last5 else None,
        "final_loss": losses[-1] if losses else None,
        **({"final_perplexity": perplexities[-1]} if perplexities else {}),
        **final_metrics(rows),
        **({"final_exact_match": matches[-1]} if matches else {}),
        "test_examples": used,
        "all_test_examples": examples,
        "up_bytes_total": traffic.total("up"),
        "down_bytes_total": traffic.total("down"),
        "bytes": traffic.table(),
        "bytes_measured": plan.round_trip,
        "fedavg_bytes_total": fedavg_bytes(plan, [row.get("cohort") or cohort(plan, row["round"]) for row in rows]),
        "seconds": sum(row["seconds"] for row in rows),
        "peak_rss_bytes": peak_rss(),
        "seed": plan.seed,
        "versions": versions(),
        "engine": engine.name,
        "engine_reason": engine.reason,
        "merges": sum(row["merged"] for row in rows),
        "parameters": tree.size(tree.omit(plan.net.params, plan.net.factors)),
        "trained_parameters": tree.size(tree.omit(trained, plan.net.buffers)),
        "clients": plan.clients,
        "cohort": plan.cohort,
        "notes": [*notes(plan, choices=False), *_missing(rows)],
        **profiles.of_run(plan, rows),
    }


def loss_name(plan: Plan) -> str:
    """Return the name of the loss; a net with its own score, such as a language model, has the cross-entropy."""
    own = name_of(plan.net.losses) if plan.net.score is None else "cross_entropy"
    return own or ("mse" if plan.dataset.task == "regression" else "cross_entropy")


def final_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the further metrics of the last evaluation; one that had no value then is None."""
    last: Mapping[str, Any] = next((row for row in reversed(rows) if row["test_loss"] is not None), {})
    return {f"final_{name}": last[f"test_{name}"] for name in metric_names([last])}


def _missing(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a note for each metric that had no value in some evaluations."""
    without: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for name in row.get("missing", {}):
            without.setdefault(name, []).append(row)
    for name, found in without.items():
        rounds = listed([row["round"] for row in found])
        yield f"the metric {quoted(name)} has no value in rounds {rounds}: {plain(found[-1]['missing'][name], 300)}"


def results(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best evaluation and why the run has ended; ``rows`` include that before training."""
    found, ended = best(plan, rows), ending(plan, rows)
    start = latest_scores(rows[:1]) if rows and not rows[0]["round"] else {}
    return {
        **({"start": start} if start else {}),
        **({"best": {"by": plan.eval_best, "round": found.round, "score": found.score}} if found else {}),
        **({"ended": ended} if ended else {}),
    }


def fedavg_bytes(plan: Plan, cohorts: Sequence[Sequence[int]]) -> int:
    """Return the bytes that FedAvg would exchange with the same cohorts, down and up, by the byte formula."""
    every_weight = plan.net._replace(trainable=frozenset(plan.net.params))  # including those that this run freezes
    each = cost(every_weight, fedavg(), cohorts, codec=plan.codec, first_download=False)
    return sum(traffic.total("up") + traffic.total("down") for traffic in each)


def peak_rss() -> int | None:
    """Return the peak resident memory of this process in bytes, or None if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Return the versions of the software that produced the results."""
    return {"fedloru": version("fedloru"), "torch": torch.__version__, "python": platform.python_version()}

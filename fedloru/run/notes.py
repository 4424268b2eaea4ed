"""Notes about a run that its settings do not show, such as layers that stay dense."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fedloru import net as nets
from fedloru.data.client_tests import keys_of_tests
from fedloru.lowrank.choice import Choice
from fedloru.method import Method, is_merge_round
from fedloru.run.plan import Plan
from fedloru.settings import short


def notes(plan: Plan, *, choices: bool = True) -> list[str]:
    """Return what a user should know about ``plan`` before it runs.

    With ``choices``, this includes the layers that stay dense by default.
    """
    return [
        *_dense_layers(plan, choices),
        *merge_notes(plan.method, plan.rounds),
        *_precision_notes(plan),
        *_test_notes(plan),
    ]


def _test_notes(plan: Plan) -> Iterator[str]:
    """Yield a note if clients of a natural partition are not tested on examples of their own."""
    scored = plan.eval_clients and plan.partition.scheme == "natural" and not plan.has_own_tests
    if scored and keys_of_tests(plan.dataset, plan.partition) is None:
        key = plan.partition.settings.get("key")
        yield (
            f"no test example has a value of {key!r} of a client, so each client is scored on test examples with its "
            f"mix of classes: add {key!r} to the test set, or set partition.test_fraction"
        )


def _precision_notes(plan: Plan) -> Iterator[str]:
    if plan.recipe.precision == "bf16" and nets.emulates_bf16(torch.device(plan.device)):
        yield (
            f"precision is 'bf16', but the device {plan.device!r} has no instructions for products in bf16, so "
            "training may be slower than with 'full'"
        )


def merge_notes(method: Method, rounds: int) -> Iterator[str]:
    """Yield a note if no merge of ``method`` has an effect: a merge in the last round leaves the model as it is."""
    cycle = method.traits.cycle
    if cycle is None or any(is_merge_round(cycle, round) for round in range(1, rounds)):
        return
    last = f"the last of {rounds:,} rounds" if rounds > 1 else "the only round"
    fix = "choose a shorter cycle, or train for more rounds" if rounds > 1 else "train for more rounds"
    yield (
        f"no merge falls before {last} (the cycle is {_shown(cycle)}), so {short(method.name)} trains like FedLoRA, "
        f"with an update of low rank: {fix}"
    )


def _dense_layers(plan: Plan, choices: bool) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for layer, reason in plan.net.skipped.items():
        if choices or not isinstance(reason, Choice):
            reasons.setdefault(reason, []).append(layer)
    for reason, layers in reasons.items():
        yield f"{_named(layers)} not adapted: {reason}"


def _named(layers: list[str]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]} is"
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return f"layers {', '.join(layers[:3])}{more} are"


def _shown(cycle: object) -> str:
    return f"{cycle:g}" if isinstance(cycle, float) else str(cycle)

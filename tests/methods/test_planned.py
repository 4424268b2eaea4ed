"""Settings of methods that follow from the size of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import fedloru as fl
from fedloru import methods
from fedloru.method import Method, planned
from fedloru.methods import blocks, declare
from fedloru.run.notes import merge_notes
from fedloru.settings.types import RunSize

MAKERS: dict[str, tuple[Any, str]] = {
    "fedloru": (partial(fl.fedloru, recipe="paper"), "tau"),
    "pfedloru": (methods.pfedloru, "tau"),
    "mfedloru": (methods.mfedloru, "tau"),
    "fedmud": (methods.fedmud, "interval"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("rounds", "expected"), [(1, 1), (3, 1), (20, 5), (50, 12)])
def test_the_cycle_follows_from_the_rounds(name: str, rounds: int, expected: int) -> None:
    make, key = MAKERS[name]
    made = planned(make(), RunSize(rounds))
    assert made.config[key] == expected == made.traits.cycle and made.in_run is None
    assert made.name == name and made.config == make(**{key: expected}).config


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1), (0.7, 1), (0.5, 2), (0.25, 4), (0.1, 10), (0.01, 100)])
def test_the_alternating_recipe_merges_as_rarely_as_clients_take_part(share: float, expected: int) -> None:
    """So that a client catches up with one increment on average."""
    made = planned(fl.fedloru(), RunSize(1000, share))
    assert made.config["tau"] == made.traits.cycle == expected


@pytest.mark.parametrize(("rounds", "expected"), [(1, 1), (5, 1), (6, 2), (12, 3), (20, 4), (50, 10), (200, 10)])
def test_the_alternating_recipe_has_about_five_cycles_in_a_short_run(rounds: int, expected: int) -> None:
    assert planned(fl.fedloru(), RunSize(rounds, 0.1)).config["tau"] == expected


def test_a_cycle_that_is_set_is_kept() -> None:
    made = fl.fedloru(recipe="paper", tau=7)
    assert planned(made, RunSize(20)) is made


def test_wrappers_are_applied_again() -> None:
    made = planned(methods.clip(methods.prox(fl.fedloru(recipe="paper"), mu=0.1), norm=2.0), RunSize(20))
    assert made.config["tau"] == 5
    assert [entry["name"] for entry in made.config["wrap"]] == ["prox", "clip"]


def test_a_method_whose_functions_were_replaced_is_kept() -> None:
    changed = fl.fedloru(recipe="paper")._replace(server=blocks.average)
    assert planned(changed, RunSize(40)) is changed


def test_a_declared_method_that_extends_fedloru_is_planned() -> None:
    @declare.method(trained="A, B", aggregate="inexact", rank="r", extends=fl.fedloru)
    def twice(**settings: Any) -> Method:
        """Return FedLoRU."""
        return fl.fedloru(**settings)

    made = planned(twice(recipe="paper", reset="keep"), RunSize(8))
    assert (made.name, made.config["tau"], made.config["reset"]) == ("twice", 2, "keep")


@pytest.mark.parametrize(("tau", "silent"), [(19, True), (20, False), (30, False), ([25], False), ([3], True)])
def test_a_run_without_an_effective_merge_has_a_note(tau: Any, silent: bool) -> None:
    assert (not list(merge_notes(fl.fedloru(recipe="paper", tau=tau), 20))) is silent


def test_methods_that_never_merge_have_no_note() -> None:
    assert not list(merge_notes(methods.fedavg(), 20)) and not list(merge_notes(methods.fedlora(), 20))

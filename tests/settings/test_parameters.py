"""Functions with the parameters of a record: unknown arguments are named, with how to set them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import fedloru as fl
from fedloru.settings.parameters import with_parameters_of


@dataclass
class Record:
    rounds: int
    cohort: int = 10


@with_parameters_of(Record, Record, {"lr": "pass recipe=Recipe(lr=…)"})
def product(record: Record) -> int:
    """Return a product."""
    return record.rounds * record.cohort


def test_the_function_gets_the_record() -> None:
    assert product(3) == 30 and product(rounds=3, cohort=2) == 6


@pytest.mark.parametrize(
    ("name", "advice"), [("lr", ": pass recipe=Recipe"), ("round", "; did you mean 'rounds'"), ("zzz", "$")]
)
def test_an_unknown_argument_is_named_with_advice(name: str, advice: str) -> None:
    with pytest.raises(TypeError, match=rf"^product\(\) has no argument '{name}'{advice}"):
        product(3, **{name: 1})


def test_settings_of_local_training_belong_to_the_recipe() -> None:
    with pytest.raises(TypeError, match=r"recipe=fedloru.Recipe\(lr=…\)"):
        fl.run(None, None, None, None, lr=0.1)

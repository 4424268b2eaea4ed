"""The list of methods names all there are, and its bytes are the formula's."""

from __future__ import annotations

from fedloru.cli.methods import FACTS
from fedloru.methods import METHODS
from tests.cli.conftest import Cli

HEAD = 64 * 10 + 10 + 64
"""What ``small`` trains densely: the second layer, and both biases."""
FACTORS = 4 * (64 + 64)


def kilobytes(told: str, name: str) -> tuple[str, ...]:
    """Return the bytes up and down of a method, as they are printed; the columns before and after hold no numbers."""
    (line,) = [line for line in told.splitlines() if line.split()[:1] == [name]]
    return tuple(word for word in line.removeprefix(name).split() if word.replace(".", "").isdigit())[:2]


def kb(values: int) -> str:
    return f"{4 * values / 1e3:,.1f}"


def test_the_facts_are_of_the_methods_there_are() -> None:
    assert FACTS.keys() == METHODS.keys()


def test_bytes_are_those_of_a_steady_round(cli: Cli) -> None:
    told = cli("methods", "small").stdout
    assert kilobytes(told, "fedavg") == (kb(64 * 64 + HEAD), kb(64 * 64 + HEAD))
    for name in ("fedlora", "fedloru", "pfedloru"):
        assert kilobytes(told, name) == (kb(FACTORS + HEAD), kb(FACTORS + HEAD))
    assert kilobytes(told, "rolora") == (kb(FACTORS // 2 + HEAD), kb(FACTORS + HEAD))
    assert kilobytes(told, "flora") == (kb(FACTORS + HEAD), kb(5 * FACTORS + HEAD))


def test_the_configured_method_has_its_settings(cli: Cli) -> None:
    default = cli("methods", "small", "-s", "method.name=fedpara").stdout
    personal = cli("methods", "small", "-s", "method.name=fedpara", "-s", "method.personal=true").stdout
    assert kilobytes(default, "fedpara") == (kb(2 * FACTORS + HEAD), kb(2 * FACTORS + HEAD))
    assert kilobytes(personal, "fedpara") == (kb(FACTORS + HEAD), kb(FACTORS + HEAD))


def test_a_model_that_cannot_be_adapted_leaves_fedavg(cli: Cli) -> None:
    told = cli("methods", "small", "-s", "lowrank.rank=500").stdout
    assert kilobytes(told, "fedavg") == (kb(64 * 64 + HEAD), kb(64 * 64 + HEAD))
    assert told.count("No bytes for") == 1 and "rank 500 was asked for" in " ".join(told.split())


def test_a_method_that_needs_ranks_says_so_and_has_bytes_where_there_are_some(cli: Cli) -> None:
    assert "No bytes for hetlora: this method is made for clients of different rank" in " ".join(
        cli("methods", "small").stdout.split()
    )
    told = cli("methods", "small", "-s", "lowrank.capacities={1=0.5}").stdout
    up, _ = kilobytes(told, "hetlora")
    assert 4 * (FACTORS / 4 + HEAD) / 1e3 <= float(up) < 4 * (FACTORS + HEAD) / 1e3


def test_an_unknown_setting_is_refused(cli: Cli) -> None:
    assert "method.tua is not a setting" in cli("methods", "small", "-s", "method.tua=3", code=2).stderr

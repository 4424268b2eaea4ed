"""The list of methods is complete, and its bytes are those of the formula."""

from __future__ import annotations

from fedloru.methods import METHODS, declaration
from tests.cli.conftest import Cli

HEAD = 64 * 10 + 10 + 64
"""What ``small`` trains densely: the second layer, and both biases."""
FACTORS = 4 * (64 + 64)


def kilobytes(output: str, name: str) -> tuple[str, ...]:
    """Return the bytes up and down of a method, as they are printed; the columns before and after hold no numbers."""
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [name]]
    return tuple(word for word in line.removeprefix(name).split() if word.replace(".", "").isdigit())[:2]


def kb(values: float) -> str:
    return f"{4 * values / 1e3:,.1f}"


def test_every_method_is_listed_with_its_facts(cli: Cli) -> None:
    listed = " ".join(cli("methods", "small").stdout.split())
    for name, function in METHODS.items():
        facts = declaration(function).facts
        assert "?" not in facts and name in listed and facts.source.split()[0] in listed


def test_bytes_are_those_of_a_steady_round(cli: Cli) -> None:
    output = cli("methods", "small").stdout
    assert kilobytes(output, "fedavg") == (kb(64 * 64 + HEAD), kb(64 * 64 + HEAD))
    for name in ("fedlora", "fedloru", "pfedloru"):
        assert kilobytes(output, name) == (kb(FACTORS + HEAD), kb(FACTORS + HEAD))
    assert kilobytes(output, "rolora") == (kb(FACTORS // 2 + HEAD), kb(FACTORS + HEAD))
    assert kilobytes(output, "flora") == (kb(FACTORS + HEAD), kb(5 * FACTORS + HEAD))


def test_the_configured_method_has_its_settings(cli: Cli) -> None:
    default = cli("methods", "small", "-s", "method.name=fedpara").stdout
    personal = cli("methods", "small", "-s", "method.name=fedpara", "-s", "method.personal=true").stdout
    assert kilobytes(default, "fedpara") == (kb(2 * FACTORS + HEAD), kb(2 * FACTORS + HEAD))
    assert kilobytes(personal, "fedpara") == (kb(FACTORS + HEAD), kb(FACTORS + HEAD))


def test_a_model_that_cannot_be_adapted_leaves_fedavg(cli: Cli) -> None:
    output = cli("methods", "small", "-s", "lowrank.rank=500").stdout
    assert kilobytes(output, "fedavg") == (kb(64 * 64 + HEAD), kb(64 * 64 + HEAD))
    assert output.count("No bytes for") == 1 and "got rank 500" in " ".join(output.split())


def test_a_method_that_requires_different_ranks_has_no_bytes(cli: Cli) -> None:
    assert "No bytes for hetlora: this method requires clients of different ranks" in " ".join(
        cli("methods", "small").stdout.split()
    )


def test_profiles_have_their_bytes(cli: Cli) -> None:
    """With a client of each rank in the cohort of 2, means are halfway; FLoRA's stack has ranks 4 and 1."""
    settings = ("-s", "lowrank.capacities={1=0.1}", "-s", "cohort.size=2")
    means, profiles = cli("methods", "small", *settings).stdout.split("by profile")
    whole, low = FACTORS + HEAD, FACTORS // 4 + HEAD
    stack = whole + FACTORS // 4
    for name, usual, ranked in (
        ("hetlora", (whole, whole), (low, low)),
        ("flexlora", (whole, whole), (low, low)),
        ("fedhm", (whole, whole), (low, low)),
        ("flora", (whole, stack), (low, stack)),
    ):
        assert kilobytes(means, name) == tuple(kb((x + y) / 2) for x, y in zip(usual, ranked, strict=True))
        lines = [line.split() for line in profiles.splitlines()]
        first, second = [line for line in lines if line[:1] == [name]]
        assert first == [name, "usual", *map(kb, usual)]
        assert second == [name, "rank", "1", *map(kb, ranked)]


def test_equal_clients_have_no_table_of_profiles(cli: Cli) -> None:
    assert "by profile" not in cli("methods", "small").stdout
    assert "by profile" not in cli("methods", "small", "-s", "lowrank.rank=500").stdout


def test_an_unknown_setting_is_refused(cli: Cli) -> None:
    assert "method.tua is not a setting" in cli("methods", "small", "-s", "method.tua=3", code=2).stderr

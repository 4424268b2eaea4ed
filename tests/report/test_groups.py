from pathlib import Path
from typing import Any

import pytest

from fedloru.report import Records, cautions, grouped

BASE = {"rounds": 2, "method": {"name": "fedloru", "tau": 10}, "data": {"source": "digits", "seed": 0}}


def run(seed: int = 0, name: str = "run", done: bool = True, hash: str = "h", **changes: Any) -> Records:
    config = {**BASE, "seed": seed, "output": {"dir": name}, **changes}
    return Records(Path(name), config, {"hash": f"{hash}{seed}"}, [], {"rounds": 0} if done else {})


def labels(*methods: dict[str, Any], **more: Any) -> list[str]:
    return [group.label for group in grouped([run(method=method, **more) for method in methods])]


def test_seeds_and_folders_do_not_separate_groups() -> None:
    (group,) = grouped([run(2, "c"), run(0, "a"), run(1, "b", model={"seed": 5}), run(3, "d", model={"seed": 6})][:2])
    assert [one.config["seed"] for one in group.runs] == [0, 2]
    assert group.label == "fedloru"
    assert len(grouped([run(0, model={"name": "m", "seed": 5}), run(1, model={"name": "m", "seed": 6})])) == 1


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ([{"name": "fedavg"}, {"name": "fedloru", "tau": 10}], ["fedavg", "fedloru"]),
        ([{"name": "fedloru", "tau": 5}, {"name": "fedloru", "tau": 10}], ["tau 5", "tau 10"]),
        (
            [{"name": "fedavg"}, {"name": "fedloru", "tau": 5}, {"name": "fedloru", "tau": 10}],
            ["fedavg", "fedloru, tau 5", "fedloru, tau 10"],
        ),
        ([{"name": "fedavg"}, {"name": "fedavg", "prox": 0.1}], ["no prox", "prox 0.1"]),
        ([{"name": "a", "clip": True}, {"name": "a", "clip": False}], ["clip true", "clip false"]),
    ],
)
def test_a_label_has_the_settings_that_differ(methods: list[dict[str, Any]], expected: list[str]) -> None:
    assert labels(*methods) == expected


def test_settings_of_two_methods_with_the_same_name_are_not_compared() -> None:
    found = labels({"name": "fedloru", "init": "a"}, {"name": "fedlmt", "init": "spectral"}, {"name": "fedavg"})
    assert found == ["fedloru", "fedlmt", "fedavg"]


def test_settings_with_the_same_short_name_keep_their_full_name() -> None:
    groups = grouped([run(client={"lr": 0.1}, server={"lr": 1.0}), run(client={"lr": 0.2}, server={"lr": 2.0})])
    assert [group.label for group in groups] == ["client.lr 0.1, server.lr 1", "client.lr 0.2, server.lr 2"]


def test_an_unfinished_run_is_reported_and_excluded_if_others_are_finished() -> None:
    (group,) = grouped([run(0), run(1, "late", done=False)])
    assert [one.config["seed"] for one in group.counted] == [0]
    assert list(cautions([group])) == [
        "late (fedloru, seed 1) is not finished: it has 0 of 2 rounds, and is excluded from the results."
    ]
    (single,) = grouped([run(1, "late", done=False)])
    assert len(single.counted) == 1


def test_a_repeated_seed_is_reported() -> None:
    assert "several runs with seed 0" in " ".join(cautions(grouped([run(0, "a"), run(0, "b")])))


def test_different_data_and_partitions_are_reported() -> None:
    other = {"source": "mnist5k", "seed": 0}
    assert "different data sets (data.source differs)" in " ".join(cautions(grouped([run(), run(data=other)])))
    avg = {"name": "fedavg"}
    assert "even with the same seed" in " ".join(cautions(grouped([run(), run(hash="other", method=avg)])))
    assert not list(cautions(grouped([run(0), run(1, method=avg)])))

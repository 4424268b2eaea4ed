from pathlib import Path
from typing import Any

import pytest

from fedloru.comparison.groups import Group, baseline, cautions, grouped
from fedloru.errors import ConfigError
from fedloru.report import Records

BASE = {"rounds": 2, "method": {"name": "fedloru", "tau": 10}, "data": {"source": "digits", "seed": 0}}


def run(seed: int = 0, name: str = "run", done: bool = True, hash: str = "h", **changes: Any) -> Records:
    config = {**BASE, "seed": seed, "output": {"dir": name}, **changes}
    return Records(Path(name), config, {"hash": f"{hash}{seed}"}, [], {"rounds": 0} if done else {})


LONG = f"a x={'b' * 39}…"


def names(groups: list[Group]) -> list[str]:
    return [group.label for group in groups]


def labels(*methods: dict[str, Any], **more: Any) -> list[str]:
    return [group.label for group in grouped([run(method=method, **more) for method in methods])]


def test_seeds_and_folders_do_not_separate_groups() -> None:
    (group,) = grouped([run(2, "c"), run(0, "a"), run(1, "b", model={"seed": 5}), run(3, "d", model={"seed": 6})][:2])
    assert [one.config["seed"] for one in group.runs] == [0, 2]
    assert group.label == "FedLoRU"
    assert len(grouped([run(0, model={"name": "m", "seed": 5}), run(1, model={"name": "m", "seed": 6})])) == 1


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ([{"name": "fedavg"}, {"name": "fedloru", "tau": 10}], ["FedAvg", "FedLoRU"]),
        ([{"name": "fedloru", "tau": 5}, {"name": "fedloru", "tau": 10}], ["FedLoRU τ=5", "FedLoRU τ=10"]),
        (
            [{"name": "fedavg"}, {"name": "fedloru", "tau": 5}, {"name": "fedloru", "tau": 10}],
            ["FedAvg", "FedLoRU τ=5", "FedLoRU τ=10"],
        ),
        ([{"name": "fedavg"}, {"name": "fedavg", "prox": 0.1}], ["FedAvg", "FedAvg prox=0.1"]),
        ([{"name": "a", "clip": True}, {"name": "a", "clip": False}], ["a clip", "a"]),
        ([{"name": "a", "clip": None}, {"name": "a", "clip": False}], ["a no clip", "a clip=false"]),
        ([{"name": "a", "x": {"u": 2, "v": 2}}, {"name": "a", "x": {"u": 4, "v": 4}}], ["a x=2", "a x=4"]),
        ([{"name": "fedlora"}, {"name": "fedsa"}, {"name": "python:m:topk"}], ["FedLoRA", "FedSA-LoRA", "topk"]),
        ([{"name": "python:m:topk"}, {"name": "python:n:topk"}], ["python:m:topk", "python:n:topk"]),
        ([{"name": "a", "x": "b" * 50 + "1"}, {"name": "a", "x": "b" * 50 + "2"}], [LONG, f"{LONG} #2"]),
    ],
)
def test_a_label_has_the_settings_that_differ(methods: list[dict[str, Any]], expected: list[str]) -> None:
    assert labels(*methods) == expected


def test_settings_of_two_methods_with_the_same_name_are_not_compared() -> None:
    found = labels({"name": "fedloru", "init": "a"}, {"name": "fedlmt", "init": "spectral"}, {"name": "fedavg"})
    assert found == ["FedLoRU", "FedLMT", "FedAvg"]


def test_other_settings_are_in_labels_if_they_differ_within_a_method() -> None:
    avg, half = {"name": "fedavg"}, {"lr": 0.5}
    runs = [run(client={"lr": 0.1}, method=avg), run(client=half, method=avg), run(client=half)]
    assert names(grouped(runs)) == ["FedAvg rate=0.1", "FedAvg rate=0.5", "FedLoRU rate=0.5"]
    tuned = [run(client={"lr": 0.1}, method=avg), run(client=half)]
    assert names(grouped(tuned)) == ["FedAvg", "FedLoRU"]


def test_a_form_is_named_by_its_section_and_its_settings_are_not_compared_with_those_of_others() -> None:
    models = [{"name": "mlp", "hidden": [9]}, {"name": "cnn", "width": 4}, {"name": "cnn", "width": 8}]
    found = names(grouped([run(model=model) for model in models]))
    assert found == ["FedLoRU model=mlp", "FedLoRU model=cnn, width=4", "FedLoRU model=cnn, width=8"]


def test_groups_are_renamed_by_label_or_by_method() -> None:
    runs = [run(method={"name": "fedavg"}), *(run(method={"name": "fedloru", "tau": tau}) for tau in (5, 10))]
    assert names(grouped(runs, {"FedLoRU τ=5": "Ours", "fedavg": "Mean"})) == ["Mean", "Ours", "FedLoRU τ=10"]
    assert names(grouped(runs, {"FedLoRU": "Ours"})) == ["FedAvg", "Ours τ=5", "Ours τ=10"]
    with pytest.raises(ConfigError, match="'Fedloru' is neither a label nor a method of the runs; did you mean"):
        grouped(runs, {"Fedloru": "Ours"})
    with pytest.raises(ConfigError, match="two groups would have the label 'FedAvg'"):
        grouped(runs, {"FedLoRU τ=5": "FedAvg"})


def test_the_baseline_is_fedavg_unless_another_is_chosen() -> None:
    runs = [*(run(method={"name": "fedloru", "tau": tau}) for tau in (5, 10)), run(method={"name": "fedavg"})]
    groups = grouped(runs)
    assert baseline(groups).label == "FedAvg" and baseline(groups[:2]).label == "FedLoRU τ=5"
    assert baseline(groups, "FedLoRU τ=10") is groups[1] and baseline(groups, "fedavg") is groups[2]
    with pytest.raises(ConfigError, match="'FedLoRU' is the method of several groups"):
        baseline(groups, "FedLoRU")
    with pytest.raises(ConfigError, match="'FedAvgg' is not a group of runs; did you mean 'FedAvg'"):
        baseline(groups, "FedAvgg")


def test_settings_with_the_same_short_name_keep_their_full_name() -> None:
    groups = grouped([run(client={"a": 1}, server={"a": 1}), run(client={"a": 2}, server={"a": 2})])
    assert names(groups) == ["FedLoRU client.a=1, server.a=1", "FedLoRU client.a=2, server.a=2"]
    groups = grouped([run(client={"lr": 0.1}, server={"lr": 1.0}), run(client={"lr": 0.2}, server={"lr": 2.0})])
    assert [group.label for group in groups] == ["FedLoRU rate=0.1, server rate=1", "FedLoRU rate=0.2, server rate=2"]


def test_an_unfinished_run_is_reported_and_excluded_if_others_are_finished() -> None:
    (group,) = grouped([run(0), run(1, "late", done=False)])
    assert [one.config["seed"] for one in group.counted] == [0]
    assert list(cautions([group])) == [
        "late (FedLoRU, seed 1) is not finished: it has 0 of 2 rounds, and is excluded from the results."
    ]
    (single,) = grouped([run(1, "late", done=False)])
    assert len(single.counted) == 1


def test_a_repeated_seed_is_reported() -> None:
    assert "several runs with seed 0" in " ".join(cautions(grouped([run(0, "a"), run(0, "b")])))


def test_different_data_and_partitions_are_reported() -> None:
    other = {"source": "mnist5k", "seed": 0}
    assert "different data sets (data.source differs)" in " ".join(cautions(grouped([run(), run(data=other)])))
    avg = {"name": "fedavg"}
    recorded = run(data={**BASE["data"], "task": "classification"}, method=avg)
    assert not list(cautions(grouped([run(), recorded])))
    assert "even with the same seed" in " ".join(cautions(grouped([run(), run(hash="other", method=avg)])))
    assert not list(cautions(grouped([run(0), run(1, method=avg)])))

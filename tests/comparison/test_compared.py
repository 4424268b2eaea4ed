"""``fedloru.compare``: from folders and from runs, with and without folders."""

from pathlib import Path
from typing import Any

import pytest

import fedloru as fl
from fedloru.errors import ConfigError, RunFolderError
from fedloru.report import write
from tests.report.made_up import write_run


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    digits = fl.data.load("digits")
    model = fl.models.build("mlp", channels=1, size=8, classes=10, seed=0)
    clients = fl.data.dirichlet(digits, clients=4, alpha=1.0)
    return {"dataset": digits, "partition": clients, "model": model}


def trained(parts: dict[str, Any], method: fl.Method, seed: int, **settings: Any) -> fl.Run:
    run = fl.run(fl.attach(parts["model"], rank=2), method, parts["dataset"], parts["partition"], rounds=2, cohort=2,
                 seed=seed, **settings)  # fmt: skip
    for _ in run:
        pass
    return run


def test_runs_and_folders_are_compared_together(parts: dict[str, Any], tmp_path: Path) -> None:
    runs = [trained(parts, fl.fedloru(tau=1), seed) for seed in (0, 1)]
    folder = trained(parts, fl.fedlora(), 0, out=tmp_path / "lora0")
    trained(parts, fl.fedlora(), 1, out=tmp_path / "lora1")
    found = fl.compare([*runs, folder, tmp_path / "lora1", tmp_path], target=0.01)
    assert repr(found) == "<Comparison of 4 runs in 2 groups: FedLoRU, FedLoRA>"
    rows = {row["group"]: row for row in found.rows}
    finals = [run.rows[-1]["test_accuracy"] for run in runs]
    assert rows["FedLoRU"]["seeds"] == [0, 1] == rows["FedLoRA"]["seeds"]
    assert rows["FedLoRU"]["accuracy"] == pytest.approx(sum(finals) / 2)
    assert rows["FedLoRU"]["up_bytes"] == runs[0].rows[-1]["up_bytes_total"]
    assert rows["FedLoRA"]["accuracy_pairs"] == 2 and rows["FedLoRA"]["rounds_to_target"] == 1
    assert not found.cautions


def test_a_run_without_a_folder_has_its_score_before_training_and_is_finished_if_it_ended_early(
    parts: dict[str, Any],
) -> None:
    early = [trained(parts, fl.fedloru(tau=1), seed, patience=1, min_delta=9.0) for seed in (0, 1)]
    found = fl.compare(early)
    assert not found.cautions and found.rows[0]["finished"]
    first = found.rounds().splitlines()[1].split(",")
    assert first[2] == "0" and float(first[3]) == early[0].start["test_accuracy"]


def test_a_folder_stands_for_the_runs_in_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(write_run(tmp_path / "runs" / name))
    (tmp_path / "runs" / "notes").mkdir()
    found = fl.compare(tmp_path / "runs")
    assert [run.name for run in found.groups[0].runs] == ["a", "b"]
    assert len(fl.compare(sorted((tmp_path / "runs").glob("[!n]*"))).groups[0].runs) == 2  # the shared script is no run


def test_every_output(tmp_path: Path) -> None:
    found = fl.compare([write_run(tmp_path / name) for name in ("a", "b")], names={"fedloru": "Ours"})
    for text in (found.latex(), found.markdown(), found.csv(), found.rounds(), repr(found)):
        assert "Ours" in text
    assert found.page(tmp_path / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert found.metric.name == "accuracy" and "several runs with seed 7" in found.cautions[0]


def test_mistakes(parts: dict[str, Any], tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(RunFolderError, match="nothing to compare: name at least two"):
        fl.compare([runs[0], str(runs[0])])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="empty is not a run folder"):
        fl.compare([runs[0], tmp_path / "empty"])
    with pytest.raises(ConfigError, match="the target is 90, expected a value of accuracy in"):
        fl.compare(runs, target=90)
    with pytest.raises(ConfigError, match="'fedprox' is not a group of runs"):
        fl.compare(runs, baseline="fedprox")
    with pytest.raises(RunFolderError, match="none of the runs has been evaluated"):
        fl.compare([write_run(tmp_path / name, rounds=0) for name in ("c", "d")])

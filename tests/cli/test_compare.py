"""The runs that compare trains, resumes and reuses, and its output."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fedloru.cli.vary import split
from tests.cli.conftest import Cli, rows

MAKE = ("compare", "--config", "small", "-s", "rounds=2", "-s", "output.checkpoint_every=1", "-q")
METHODS = ("--vary", "method.name=fedavg,fedloru")
HERE = Path("runs/compare-small")


def times(folders: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folders.glob("*/summary.json")}


def test_missing_runs_are_trained_and_finished_runs_are_reused(cli: Cli) -> None:
    cli(*MAKE, *METHODS)
    before = times(HERE)
    assert before.keys() == {"fedavg_seed-0", "fedloru_seed-0"}
    cli(*MAKE, *METHODS, "--seeds", "2", "-o", "cmp.html", "--csv", "cmp.csv")
    after = times(HERE)
    assert len(after) == 4 and before.items() <= after.items()
    lines = list(csv.DictReader(Path("cmp.csv").read_text().splitlines()))
    assert [(line["group"], line["seed"], line["round"]) for line in lines] == [
        (group, seed, round) for group in ("FedAvg", "FedLoRU") for seed in "01" for round in "012"
    ]
    last = rows(HERE / "fedloru_seed-1")[-1]
    assert (float(lines[-1]["accuracy"]), float(lines[-1]["up_mb"])) == (
        last["test_accuracy"],
        last["up_bytes_total"] / 1e6,
    )
    assert "4 runs in 2 groups" in Path("cmp.html").read_text()


def test_the_table_has_a_row_per_group(cli: Cli) -> None:
    cli(*MAKE, *METHODS, "--seeds", "2")
    output = cli("compare", *HERE.iterdir(), "--target", "1").stdout
    lines = [line.split() for line in output.splitlines()]
    for name in ("FedAvg", "FedLoRU"):
        (line,) = [line for line in lines if line[:3] == [name, "0,", "1"]]
        assert line[4] == "±"
    assert output.count("reached") == 4 and "rounds" in output
    assert "Mean difference from FedAvg over shared seeds" in output


def test_a_single_seed_shows_no_spread(cli: Cli) -> None:
    output = cli(*MAKE[:-1], *METHODS).stdout
    assert "±" not in output and "FedLoRU" in output and "Fewer than two shared seeds" in output


def test_an_interrupted_run_is_resumed(cli: Cli) -> None:
    cli(*MAKE, *METHODS)
    cut, whole = HERE / "fedloru_seed-0", rows(HERE / "fedloru_seed-0")
    (cut / "summary.json").unlink()
    for path in (cut / "checkpoint").glob("*2.*"):
        path.unlink()
    output = cli("compare", *HERE.iterdir())
    assert "0*" in output.stdout and "fedloru_seed-0 (FedLoRU, seed 0) is not finished" in output.stderr
    output = cli(*MAKE[:-1], *METHODS)
    assert "resuming" in output.stderr and "round 2/2" in output.stdout and "round 1/2" not in output.stdout
    assert rows(cut) == whole and (cut / "summary.json").is_file()


def test_a_run_killed_while_its_folder_was_created_is_trained(cli: Cli) -> None:
    half = HERE / "fedloru_seed-0"
    half.mkdir(parents=True)
    (half / ".config.toml.new").touch()
    (half / "partition.json").touch()
    cli(*MAKE, *METHODS)
    assert (half / "summary.json").is_file()


def test_a_run_that_diverged_is_not_reported_as_resumable(cli: Cli) -> None:
    output = cli(*MAKE, "--vary", "client.lr=0.1,1e9", "-s", "client.clip=1e30", code=2).stderr
    assert "lr-1e9_seed-0. Results so far are kept: the same settings would diverge again" in output
    assert "repeat the command" not in output


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_configuration_is_refused_before_training(cli: Cli, finished: bool) -> None:
    cli(*MAKE, "--vary", "method.name=fedavg,fedlora")
    if not finished:
        (HERE / "fedavg_seed-0" / "summary.json").unlink()
    output = cli(*MAKE, "--vary", "method.name=fedloru,fedavg", "-s", "client.lr=0.5", code=2).stderr
    assert "fedavg_seed-0 has another configuration: client.lr is 0.1 there, 0.5 here" in output
    assert not (HERE / "fedloru_seed-0").exists()


def test_settings_and_lists_can_be_varied_together(cli: Cli) -> None:
    cli(*MAKE, "--vary", "method.tau=[1,2],2", "--vary", "client.lr=0.1,0.2", "--out", "here")
    assert sorted(times(Path("here"))) == [
        "tau-1-2_lr-0.1_seed-0",
        "tau-1-2_lr-0.2_seed-0",
        "tau-2_lr-0.1_seed-0",
        "tau-2_lr-0.2_seed-0",
    ]


def test_a_varied_setting_applies_to_the_methods_that_have_it(cli: Cli) -> None:
    tau = ("--vary", "method.tau=1,2")
    cli(*MAKE, *METHODS, *tau, "--table", "table.csv")
    assert sorted(times(HERE)) == ["fedavg_seed-0", "fedloru_tau-1_seed-0", "fedloru_tau-2_seed-0"]
    lines = list(csv.DictReader(Path("table.csv").read_text("utf-8").splitlines()))
    assert [line["group"] for line in lines] == ["FedAvg", "FedLoRU τ=1", "FedLoRU τ=2"]
    before = times(HERE)
    cli(*MAKE, *tau, *METHODS, "--vary", "model.name=mlp,cnn", "--vary", "model.hidden=[8],[9]", "--out", "models")
    assert len(times(Path("models"))) == 3 * (2 + 1) and times(HERE) == before
    cli(*MAKE, *METHODS, "-s", "method.tau=1", "--out", "set")
    assert sorted(times(Path("set"))) == ["fedavg_seed-0", "fedloru_seed-0"]
    refused = cli(*MAKE, "--vary", "method.name=fedavg,fedlora", *tau, "--out", "new", code=2).stderr
    assert "method.tau is set, but only method.name = " in refused and not Path("new").exists()


def test_settings_that_depend_on_another_are_varied_where_they_have_an_effect(cli: Cli) -> None:
    cli(*MAKE, "--vary", "client.optimizer=sgd,adamw", "--vary", "client.momentum=0,0.5", "--out", "here")
    assert sorted(times(Path("here"))) == [
        "optimizer-adamw_seed-0",
        "optimizer-sgd_momentum-0.5_seed-0",
        "optimizer-sgd_momentum-0_seed-0",
    ]


def test_all_files_with_other_names(cli: Cli) -> None:
    files = {"-o": "c.html", "--latex": "t.tex", "--markdown": "t.md", "--table": "t.csv", "--csv": "r.csv"}
    files |= {"--pictures": "figures"}
    options = [word for pair in files.items() for word in pair]
    names = ("--name", "fedloru=Ours", "--name", "FedAvg=FedAvg (a=b)", "--baseline", "Ours", "--target", "0.1")
    for _ in range(2):  # the files of a comparison are replaced
        output = cli(*MAKE[:-1], *METHODS, "--seeds", "2", *names, *options).stdout
    for name, path in zip(("Page", "LaTeX", "Markdown", "Table", "Rounds", "Pictures"), files.values(), strict=True):
        assert f"{name}: {path}" in output and Path(path).exists()
    for path in ("c.html", "t.tex", "t.md", "t.csv", "r.csv", "figures/accuracy-over-rounds.svg"):
        text = Path(path).read_text("utf-8")
        assert "Ours" in text or path.endswith("svg")
    assert "Mean difference from Ours over shared seeds" in Path("t.md").read_text("utf-8")
    assert Path("figures/accuracy-over-bytes.pdf").read_bytes().startswith(b"%PDF")


def test_files_of_runs_are_kept(cli: Cli) -> None:
    cli(*MAKE, *METHODS)
    page = HERE / "fedavg_seed-0" / "report.html"
    before = page.read_bytes()
    output = cli("compare", HERE, "-o", page, code=2)
    assert "is in the run folder" in output.stderr and output.stdout == "" and page.read_bytes() == before
    Path("paper.tex").write_text("my paper")
    assert "paper.tex exists and is not the LaTeX" in cli("compare", HERE, "--latex", "paper.tex", code=2).stderr
    assert Path("paper.tex").read_text() == "my paper"


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ("1,2", ["1", "2"]),
        ("[1,2], 3", ["[1,2]", "3"]),
        ("{a=1,b=[2,3]},{}", ["{a=1,b=[2,3]}", "{}"]),
        ("'a,b',\"c,]\"", ["'a,b'", '"c,]"']),
        ("inf", ["inf"]),
    ],
)
def test_values_are_split_at_commas_outside_of_brackets_and_strings(values: str, parts: list[str]) -> None:
    assert split(values) == parts


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "there is nothing to compare"),
        (("nowhere", "elsewhere"), "nowhere does not exist"),
        ((".", "elsewhere"), "is not a run folder"),
        (("--config", "small"), "there is nothing to compare"),
        (("--config", "nowhere", "--seeds", "2"), "there is no such file and no such preset"),
        (("a", "--config", "small"), "both given"),
        (("a", "b", "--vary", "method.tau=1,2"), "--vary requires --config"),
        (("a", "b", "-o", "no/where.html"), "no/where.html is in a folder that does not exist"),
        (("a", "b", "--latex", "."), ". is a folder"),
        (("a", "b", "--pictures", "curves.jpg"), "curves.jpg is neither a folder nor a file that ends in .pdf"),
        (("--config", "small", "--vary", "method.tua=1,2"), "method.tua is not a setting"),
        (("--config", "small", "--vary", "method.tau=1,0"), "method.tau is 0"),
        (("--config", "small", "--vary", "method.tau"), "is not of the form key=value,value"),
        (("--config", "small", "--vary", "method.tau=1,,2"), "is not of the form key=value,value"),
        (("--config", "small", "--vary", "method.tau=1,1"), "names a value twice"),
        (("--config", "small", "--vary", "seed=1,2"), "seed cannot be varied"),
    ],
)
def test_mistakes(cli: Cli, args: tuple[str, ...], message: str) -> None:
    result = cli("compare", *args, code=2)
    assert message in result.stderr and result.stdout == ""
    assert not list(Path().iterdir())


def test_the_same_folder_twice_is_one_run(cli: Cli) -> None:
    cli(*MAKE, *METHODS)
    assert "nothing to compare" in cli("compare", HERE / "fedavg_seed-0", HERE / "fedavg_seed-0", code=2).stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--name", "fedloru"), "--name is 'fedloru', expected OLD=NEW"),
        (("--name", "FedLoRu=Ours"), "'FedLoRu' is neither a label nor a method of the runs; did you mean 'FedLoRU'"),
        (("--name", "fedloru=FedAvg"), "two groups would have the label 'FedAvg'"),
        (("--target", "90"), "the target is 90, expected a value of accuracy in (0, 1]"),
        (("--metric", "auc"), "the metric 'auc' was not measured by any of the runs. There are: accuracy, f1, loss"),
        (("--baseline", "fedprox"), "the baseline 'fedprox' is not a group of runs. There are: FedAvg, FedLoRU"),
    ],
)
def test_unknown_names(cli: Cli, args: tuple[str, ...], message: str) -> None:
    cli(*MAKE, *METHODS)
    result = cli("compare", HERE, *args, code=2)
    assert message in result.stderr and result.stdout == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--name", "fedloru"), "--name is 'fedloru', expected OLD=NEW"),
        (("--name", "FedLoRu=Ours"), "'FedLoRu' is neither a label nor a method of the runs; did you mean 'FedLoRU'"),
        (("--target", "90"), "the target is 90, expected a value of accuracy in (0, 1]"),
        (("--metric", "loss", "--target", "nan"), "the target is nan, expected a number"),
        (("--metric", "rmse"), "the metric 'rmse' was not measured by any of the runs. There are: accuracy"),
        (("--baseline", "fedprox"), "the baseline 'fedprox' is not a group of runs. There are: FedAvg, FedLoRU"),
    ],
)
def test_options_are_checked_before_training(cli: Cli, args: tuple[str, ...], message: str) -> None:
    result = cli(*MAKE, *METHODS, *args, code=2)
    assert message in result.stderr and result.stdout == "" and not list(Path().iterdir())


def test_metrics_and_labels_that_only_trained_runs_have_are_accepted(cli: Cli) -> None:
    metric = ("-s", 'eval.metrics=["auc"]', "--metric", "auc", "--target", "0.5")
    ranks = ("--vary", "lowrank.rank=1,2", "--baseline", "Ours rank=2, alpha=4", "--name", "fedloru=Ours")
    output = cli(*MAKE[:-1], *ranks, *metric).stdout
    assert "rounds to 0.5" in " ".join(output.split())


def test_runs_on_different_partitions_are_compared_with_a_note(cli: Cli) -> None:
    output = cli(*MAKE, "--vary", "partition.alpha=0.3,0.6")
    assert "Note: The runs have different partitions of the data (partition.alpha differs)" in output.stderr

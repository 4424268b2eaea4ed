"""``benchmarks/claims.py``: ranks hit their bytes, tuning is even, runs are not repeated, and the page shows them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

import fedloru as fl

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path += [str(BENCHMARKS)]

import claims  # noqa: E402
from claim import budget, data, diagnose, parts, stats, tables, tasks, tuning  # noqa: E402
from claim.contenders import CONTENDERS, Federation  # noqa: E402
from claim.runs import Job, Store, Tuned, train  # noqa: E402

NOWHERE = Path("nowhere")
SMALL = Federation("small", 4, 2)
CHOSEN = ("fedavg", "fedlora", "fedloru-paper-best")


def examples(folder: Path, seed: int) -> fl.data.Dataset:
    """Return made-up vectors of three classes, which a perceptron can learn."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(120) % 3
    x = torch.randn(120, 12, generator=generator) + 3 * torch.nn.functional.one_hot(y, 12)
    return fl.data.Dataset("small", {"x": x[:90], "y": y[:90]}, {"x": x[90:], "y": y[90:]}, ("a", "b", "c"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a small task, and make it the only one of part (a)."""
    task = tasks.perceptron("small", examples, (12, 1, 3), 16, rounds=3, rates=(0.1,), clips=(1.0,))
    monkeypatch.setitem(tasks.TASKS, "small", task)
    entries = {"fedavg": 1.0, "fedlora": 0.4, "fedloru-paper-best": 0.4}
    wanted = [parts.Wanted(SMALL, name, share) for name, share in entries.items()]
    monkeypatch.setitem(claims.PARTS, "a", lambda: iter(wanted))
    yield
    for cached in (tasks.examples, tasks.net, budget.sent):
        cached.cache_clear()


def start(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> list[Job]:
    """Run the benchmark in this process with two seeds, and return the jobs that it trained."""
    trained: list[Job] = []

    def counted(job: Job, folder: Path) -> dict[str, Any]:
        trained.append(job)
        return train(job, folder)

    monkeypatch.setattr(claims, "train", counted)
    common = ["--data-dir", str(NOWHERE), "--part", "a", "--seeds", "2", "--jobs", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["claims.py", *common, *arguments])
    claims.main()
    return trained


def lines(out: Path) -> list[str]:
    return (out / "small.jsonl").read_text("utf-8").splitlines()


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("contender", ["fedlora", "fedhm", "fedpara", "fedlmt", "fedmud", "fedloru"])
def test_the_rank_is_the_one_whose_bytes_are_nearest_to_the_target(contender: str, share: float) -> None:
    federation = Federation("mnist", 100, 10)
    target = share * budget.sent(federation, "fedavg", None, None, NOWHERE)
    chosen = budget.rank(federation, contender, None, share, NOWHERE)
    assert chosen is not None
    error = {r: abs(budget.sent(federation, contender, None, r, NOWHERE) - target) for r in range(1, chosen + 4)}
    assert error[chosen] == min(error.values())
    assert chosen == 1 or error[chosen] <= 0.2 * target


def test_a_shorter_cycle_costs_rank(small: None) -> None:
    federation = Federation("mnist", 100, 10)
    every, seldom = (budget.rank(federation, "fedloru-paper-best", cycle, 0.05, NOWHERE) for cycle in (1, 10))
    assert every is not None and seldom is not None
    assert every < seldom
    assert budget.rank(federation, "fedavg", None, 0.05, NOWHERE) is None


def test_the_measured_share_is_that_of_the_formula(small: None) -> None:
    rank = budget.rank(SMALL, "fedlora", None, 0.4, NOWHERE)
    jobs = {"fedavg": Job(SMALL, "fedavg", None, Tuned(0.1), 0), "fedlora": Job(SMALL, "fedlora", rank, Tuned(0.1), 0)}
    found = {parts.Wanted(SMALL, name, 0.4): {0: train(job, NOWHERE)} for name, job in jobs.items()}
    formula = [budget.sent(SMALL, name, None, job.rank, NOWHERE) for name, job in jobs.items()]
    measured = tables.share_of(found, parts.Wanted(SMALL, "fedlora", 0.4))
    assert measured == pytest.approx(formula[1] / formula[0], rel=0.05)  # envelopes are measured in addition


def test_a_stopped_benchmark_continues_and_a_complete_one_repeats_nothing(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = start(monkeypatch, tmp_path / "whole")
    assert len(whole) == len({job.key for job in whole}) == len(lines(tmp_path / "whole"))

    with monkeypatch.context() as patch:
        add, added = Store.add, list[str]()

        def interrupted(store: Store, job: Job, result: dict[str, Any], commit: str) -> None:
            if len(added) == 5:
                raise KeyboardInterrupt
            add(store, job, result, commit)
            added.append(job.key)

        patch.setattr(Store, "add", interrupted)
        with pytest.raises(SystemExit, match="stopped: the same command continues"):
            start(patch, tmp_path / "stopped")
    assert len(lines(tmp_path / "stopped")) == 5
    rest = start(monkeypatch, tmp_path / "stopped")
    assert len(rest) == len(whole) - 5
    assert start(monkeypatch, tmp_path / "stopped") == []

    def accuracies(out: Path) -> dict[str, float]:
        return {record["key"]: record["result"]["accuracy"] for record in map(json.loads, lines(out))}

    assert accuracies(tmp_path / "stopped") == accuracies(tmp_path / "whole")


def test_a_line_that_was_cut_off_is_trained_again(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start(monkeypatch, tmp_path)
    before, file = lines(tmp_path), tmp_path / "small.jsonl"
    file.write_bytes(file.read_bytes()[:-10])
    repeated = start(monkeypatch, tmp_path)
    assert [job.key for job in repeated] == [json.loads(before[-1])["key"]]
    assert lines(tmp_path)[:-1] == before[:-1]
    assert start(monkeypatch, tmp_path) == []


def test_every_method_has_the_same_number_of_trials(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start(monkeypatch, tmp_path)
    tried = [tuning.trials(SMALL, name, Store(tmp_path), NOWHERE) for name in CHOSEN]
    assert [len(each.scores) for each in tried] == [9, 9, 9]
    assert all(each.scores[each.best] == max(each.scores.values()) and not each.missing for each in tried)
    assert {len(stage(Tuned(0.1))) for stage in tuning.STAGES.values()} == {tuning.TRIALS}


def test_trials_never_see_the_test_examples() -> None:
    whole = examples(NOWHERE, 0)
    part = data.validation(whole, 0)
    rows = {tuple(row.tolist()) for row in whole.train["x"]}
    train_rows, held_out = ({tuple(row.tolist()) for row in side["x"]} for side in (part.train, part.test))
    assert train_rows | held_out == rows
    assert len(held_out) == 18 and not train_rows & held_out


def test_the_configuration_names_a_run(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(SMALL, "fedloru-paper", 2, Tuned(0.1), 0)
    others = [job._replace(seed=1), job._replace(rank=3), job._replace(validation=True), job._replace(diagnosed=True)]
    others += [job._replace(tuned=Tuned(0.1, cycle=3)), job._replace(federation=SMALL._replace(alpha=2.0))]
    assert len({each.key for each in [job, *others]}) == 7
    assert job._replace(contender="fedloru-paper-best").key == job.key  # the same run under another label
    task, before = tasks.TASKS["small"], job.key
    monkeypatch.setitem(tasks.TASKS, "small", task._replace(about=task.about | {"batch_size": 8}))
    assert job.key != before


def test_a_run_that_diverges_counts_as_chance(small: None) -> None:
    result = train(Job(SMALL, "fedavg", None, Tuned(1e30), 0), NOWHERE)
    assert result["diverged"] and result["accuracy"] == pytest.approx(1 / 3)


def test_the_page_shows_results_and_counts_what_is_missing(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "docs" / "claims.md"
    monkeypatch.setattr(tables, "RECOMMENDED", "fedloru-paper-best")
    assert start(monkeypatch, tmp_path / "out", "--docs", str(page)) == []
    # For each of three methods 1 + 4 + 4 trials and 2 seeds.
    assert "At most 33 runs are missing." in page.read_text("utf-8")
    assert start(monkeypatch, tmp_path / "out")
    assert start(monkeypatch, tmp_path / "out", "--docs", str(page)) == []
    text = page.read_text("utf-8")
    assert "All runs are complete." in text
    table = [line for line in text.splitlines() if line.startswith("| FedLoRU as published, best τ | ")]
    assert "±" in table[0] and " %" in table[0]
    leads = [line for line in text.splitlines() if line.startswith("| FedLoRA | ")][1]
    trials = {name: tuning.trials(SMALL, name, Store(tmp_path / "out"), NOWHERE).best for name in CHOSEN[1:]}
    store = Store(tmp_path / "out")
    ranks = {name: budget.rank(SMALL, name, tuned.cycle, 0.4, NOWHERE) for name, tuned in trials.items()}
    own, ahead = (
        [store.records[Job(SMALL, name, ranks[name], tuned, seed).key]["result"]["accuracy"] for seed in (0, 1)]
        for name, tuned in trials.items()
    )
    lead = stats.interval([100 * (b - a) for a, b in zip(own, ahead, strict=True)])
    assert leads == f"| FedLoRA | {lead.shown(sign='+')} |"
    assert (tmp_path / "docs" / "pictures" / "claims-bytes-small.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("part", "federations", "shown"),
    [
        ("b", [SMALL, Federation("small", 6, 3)], ["| small | IID, 3 of 6 | ", "claims-clients-small-half.png"]),
        ("c", [SMALL._replace(scheme="dirichlet", alpha=5.0)], ["Dirichlet 5, 2 of 4", "claims-skew-small.png"]),
        ("d", [SMALL], ["| small | FedLoRA | `fc2.weight` | ", "claims-gains-small.png"]),
        ("e", [SMALL], ["**small, IID, 2 of 4**"]),
    ],
)
def test_every_part_has_its_tables_and_pictures(
    part: str,
    federations: list[Federation],
    shown: list[str],
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pairs = [(federation, name) for federation in federations for name in ("fedavg", "fedlora")]
    wanted = [parts.Wanted(*pair, 0.4, diagnosed=part == "d") for pair in pairs]
    monkeypatch.setitem(claims.PARTS, part, lambda: iter(wanted))
    page = tmp_path / "claims.md"
    start(monkeypatch, tmp_path / "out", "--part", part, "--seeds", "1")
    start(monkeypatch, tmp_path / "out", "--part", part, "--seeds", "1", "--docs", str(page))
    text = page.read_text("utf-8")
    assert "All runs are complete." in text
    for each in shown:
        assert each in text
    assert len(list((tmp_path / "pictures").glob("*.png"))) == text.count("](pictures/")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "a,f"], "f is not one of a, b, c, d, e"),
        (["--method", "fedloro"], "fedloro is not one of fedavg"),
        (["--seeds", "0"], "--seeds and --jobs must be at least 1, got 0 and 2"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["claims.py", "--data-dir", "data", *arguments])
    with pytest.raises(SystemExit):
        claims.parse()
    assert message in capsys.readouterr().err


def test_every_part_asks_for_available_contenders_and_known_tasks() -> None:
    for part in parts.PARTS.values():
        for wanted in part():
            assert CONTENDERS[wanted.contender].available
            assert wanted.federation.task in tasks.TASKS
            assert 0 < wanted.federation.cohort <= wanted.federation.clients


def test_the_gain_of_factors_is_that_of_the_formula() -> None:
    whole = examples(NOWHERE, 0)
    model = fl.models.build("mlp", channels=12, size=1, classes=3, seed=0, hidden=(16,))
    net = fl.attach(model, rank=2, alpha=6, targets=["fc1"])
    settings: dict[str, Any] = {"rounds": 6, "cohort": 2, "recipe": fl.Recipe(epochs=5), "diagnostics": False}
    run = fl.run(net, fl.fedloru(recipe="paper", tau=3), whole, fl.data.iid(whole, 4), **settings)
    gains = []
    for _ in run:
        tensors = run.tensors
        a, b, s = tensors["fc1.a"], tensors["fc1.b"], 3.0
        weight = (tensors["fc1.weight"] + s * b @ a).requires_grad_()
        hidden = torch.relu(whole.train["x"] @ weight.T + tensors["fc1.bias"])
        logits = hidden @ tensors["fc2.weight"].T + tensors["fc2.bias"]
        loss = torch.nn.functional.cross_entropy(logits, whole.train["y"])
        (g,) = torch.autograd.grad(loss, weight)
        step = s**2 * (b @ b.T @ g + g @ a.T @ a)
        gains.append(diagnose.gain(net, run.plan.method, run.state, whole.train))
        assert gains[-1] == pytest.approx(float((step * g).sum() / g.square().sum()), rel=1e-4)
    assert gains[2] < gains[1] and gains[5] < gains[4]  # rounds 3 and 6 merge and reset


@pytest.mark.parametrize("method", ["fedlora", "fedpara", "fedlmt", "fedhm", "fedmud", "fedavg"])
def test_every_method_has_a_gain_and_ranks(method: str, small: None) -> None:
    job = Job(SMALL, method, None if method == "fedavg" else 2, Tuned(0.1), 0, diagnosed=True)
    result = train(job, NOWHERE)
    assert len(result["gains"]) == 4 and all(np.isfinite(gain) and gain > 0 for gain in result["gains"])
    assert all(0 < rank["numerical"] <= rank["full"] for rank in result["ranks"].values())
    if method == "fedlora":
        assert [rank["numerical"] for rank in result["ranks"].values()] == [2, 2]


def test_intervals_are_those_of_student() -> None:
    assert stats.interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / 3**0.5), rel=1e-6)
    assert stats.interval([1.0]) == (1.0, None)
    assert stats.differences({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.0, 1: 1.0, 3: 5.0}) == pytest.approx((1.0, 0.0))
    assert stats.ratios({0: 1.0}, {1: 2.0}) is None
    assert stats.interval([1.0, 2.0, 3.0]).shown() == "2.0 ± 2.5"


def test_motion_is_cut_into_windows_and_tested_on_other_trials(tmp_path: Path) -> None:
    lengths = [300, 256, 130, 127]
    x = np.random.default_rng(0).normal(size=(sum(lengths), 6)).astype(np.float16)
    trials = {"subject": [1, 1, 2, 2], "activity": [0, 1, 0, 1], "trial": ["dws_1", "ups_12", "dws_2", "ups_3"]}
    np.savez(tmp_path / "motionsense.npz", x=x, length=lengths, activities=["dws", "ups"], **trials)
    read = data.motion(tmp_path)
    assert read.train["x"].shape == (3, 768) and read.test["x"].shape == (2, 768)  # windows of 128 of 6 channels
    assert read.columns["person"] == ("01", "01", "02")
    assert read.train["y"].tolist() == [0, 0, 0] and read.test["y"].tolist() == [1, 1]
    channels = read.train["x"].reshape(-1, 6)
    assert channels.mean(0) == pytest.approx(torch.zeros(6), abs=1e-5)


def test_missing_values_of_patients_are_filled_by_the_median_of_training_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    features = {f"f{n}": generator.normal(size=40) for n in range(13)}
    features["f0"][::4] = np.nan
    table = {"hospital": ["a", "b"] * 20, **features, "num": [0.0, 2.0, 1.0, 0.0] * 10, "label": [0, 1, 1, 0] * 10}
    parquet.write_table(pa.table(table), tmp_path / "heart_disease_all.parquet")
    read = data.heart(tmp_path, 0)
    assert read.train["x"].shape == (30, 26) and read.test["x"].shape == (10, 26)
    assert sorted(read.columns["hospital"]) == ["a"] * 15 + ["b"] * 15
    filled = read.train["x"][read.train["x"][:, 13] > 0, 0]
    known = read.train["x"][read.train["x"][:, 13] < 0, 0]
    assert filled.unique().numel() == 1 and float(filled[0]) == pytest.approx(float(known.median()))
    assert not torch.equal(read.test["x"], data.heart(tmp_path, 1).test["x"])


def test_the_overview_is_put_between_the_comments_of_a_page(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "OVERVIEW", (("fedlora", 0.4), ("fedloru-paper-best", 0.4)))
    start(monkeypatch, tmp_path / "out")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- claims -->\nold\n<!-- /claims -->\nafter\n")
    assert start(monkeypatch, tmp_path / "out", "--readme", str(page)) == []
    lines = page.read_text("utf-8").splitlines()
    assert lines[:2] == ["before", "<!-- claims -->"] and lines[-2:] == ["<!-- /claims -->", "after"]
    assert lines[2].startswith("| data; clients | FedAvg | FedLoRA, 40 % |") and "old" not in lines
    assert lines[4].count(" | ") == 3 and "–" not in lines[4]
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path / "out", "--readme", str(tmp_path / "missing.md"))

"""The plan and the loop of a run: interruptions and invalid settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.data import Dataset, Partition
from fedloru.errors import ConfigError, TrainingError
from fedloru.recipe import Recipe
from fedloru.run import record
from fedloru.run.checks import check
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.run.plan import Plan, on_device
from tests.engine.cohort import built, jobs, vectors


def plan(**settings: Any) -> Plan:
    """Return a run of six rounds over two of four clients."""
    net = built(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), rank=2, targets=("0",))
    data = vectors()
    dataset = Dataset("vectors", data, tree.map(lambda t: t[:8], data), ("a", "b", "c"))
    partition = Partition("by hand", 0, tuple(job.rows for job in jobs()), (), {})
    usual = {"rounds": 6, "cohort": 2, "recipe": Recipe(batch_size=4), "codec": "exact", "checkpoint_every": 100}
    return Plan(net, methods.fedloru(recipe="paper", tau=2), dataset, partition, **(usual | settings))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("late", [False, True])
def test_a_run_stopped_while_it_writes_a_row_resumes_bit_for_bit(
    error: type[BaseException], late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint and the rows match, whether the run stops before or after the row is on disk."""
    whole = Run(plan())
    rows = list(whole)
    folder = RunFolder.create(tmp_path / "run", {}, {})
    append = RunFolder.append

    def stopped(self: RunFolder, row: dict[str, Any]) -> None:
        if row["round"] != 4 or late:
            append(self, row)
        if row["round"] == 4:
            raise error

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append", stopped)
        with pytest.raises(error):
            list(Run(plan(), folder))
    again = RunFolder.open(tmp_path / "run")
    snapshot = again.latest("cpu")
    assert snapshot is not None and snapshot.state.round == 3
    resumed = Run(plan(), again, snapshot)
    assert timeless([*resumed]) == timeless(rows[3:]) and timeless(resumed.rows) == timeless(rows)
    assert tree.equal(resumed.state.shared, whole.state.shared) and tree.equal(resumed.state.base, whole.state.base)


def test_weights_that_cannot_be_decomposed_have_diverged() -> None:
    """FedHM sends a truncated SVD; the last word of the embedding is in no example, so the loss stays finite."""
    model = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(8, 3))
    data, rows = {"x": torch.zeros(8, 1, dtype=torch.int64), "y": torch.zeros(8, dtype=torch.int64)}, torch.arange(8)
    partition = Partition("by hand", 0, (rows[:4], rows[4:]), (), {})
    net, dataset = nets.attach(model, rank=2, targets=["0"]), Dataset("words", data, data, ("a", "b", "c"))
    run = Run(Plan(net, methods.fedhm(), dataset, partition, rounds=1, cohort=1))
    shared = tree.map(torch.clone, run.state.shared)
    shared["0.weight"][-1] = torch.inf
    run.last = run.last._replace(state=run.state._replace(shared=shared))
    with pytest.raises(
        TrainingError, match=r"^round 1: the weights have diverged: .* lower the learning rate"
    ) as found:
        next(iter(run))
    assert (found.value.client, found.value.round) == (None, 1)


def test_an_error_in_training_keeps_the_last_completed_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, {})
    run = Run(plan(), folder)
    steps = iter(run)
    next(steps), next(steps)
    monkeypatch.setattr(record, "evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(steps)
    snapshot = folder.latest("cpu")
    assert snapshot is not None and snapshot.state.round == 2 == len(run.rows)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"method": "fedavg"}, "method is a str, expected a method"),
        ({"method": methods.fedloru}, "method is a function, expected a method"),
        ({"recipe": {}}, "recipe is a dict, expected a fedloru.Recipe"),
        ({"profiles": 3}, "profiles is a int, expected a tuple"),
        ({"cohort": "all"}, "cohort is 'all', expected an integer"),
        ({"seed": "a"}, "seed is 'a', expected an integer"),
    ],
)
def test_a_part_of_another_type_is_refused(part: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check(plan().replace(**part))


def test_a_plan_that_cannot_run_is_refused_with_all_its_problems() -> None:
    with pytest.raises(ConfigError) as refused:
        check(plan(rounds=0, cohort=5, chunk=0, eval_every=0, recipe=Recipe(batch_size=0), device="cuda:99"))
    message = str(refused.value)
    for problem in ("rounds is 0", "chunk is 0", "eval_every is 0", "batch_size is 0", "cohort of 5", "'cuda:99'"):
        assert problem in message
    check(plan())


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"engine": "fast"}, "engine is 'fast', expected 'auto', 'sequential', 'fused' or 'ray'"),
        ({"path": "both"}, "path is 'both'"),
        ({"codec": "fp8"}, "codec is 'fp8', expected 'exact', 'fp32'"),
        (
            {"recipe": Recipe(crop=1, flip=True)},
            r"crop and flip need images .* examples of 'vectors' have shape \(6,\): remove them",
        ),
    ],
)
def test_values_of_the_wrong_type_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Run(plan(**settings))


BAD: dict[str, tuple[Any, str]] = {
    "optimizer": ("sgdd", "'sgd', 'adam' or 'adamw', or python:package.module:function"),
    "lr": (float("nan"), "a number >= 0"),
    "momentum": (1.0, "a number in [0, 1)"),
    "weight_decay": (-1e-4, "a number >= 0"),
    "betas": ((0.9, 1.0), "two numbers in [0, 1)"),
    "eps": (0.0, "a number > 0"),
    "epochs": (0, "an integer >= 1"),
    "steps": (2.5, "an integer >= 1 or None"),
    "batch_size": (True, "an integer >= 1"),
    "drop_last": (1, "true or false"),
    "clip": (-1.0, "a number >= 0 or None"),
    "schedule": ("cosin", "'constant', 'cosine' or 'step', or python:package.module:function"),
    "decay_every": (0, "an integer >= 1"),
    "decay": (float("inf"), "a number > 0"),
    "crop": (-1, "an integer >= 0"),
    "flip": ("yes", "true or false"),
    "bucket": (0, "true or false"),
    "precision": ("fp8", "'full' or 'bf16'"),
}


def test_all_problems_of_a_recipe_are_reported_at_once() -> None:
    assert BAD.keys() == Recipe()._asdict().keys()
    wrong = Recipe(**{name: value for name, (value, _) in BAD.items()})
    with pytest.raises(ConfigError) as refused:
        check(plan(recipe=wrong))
    expected = [f"{name} is {value!r}, expected {wanted}" for name, (value, wanted) in BAD.items()]
    assert list(refused.value.problems[: len(BAD)]) == expected


def test_a_recipe_at_the_limits_of_its_ranges_is_valid() -> None:
    ends = {"lr": 0, "momentum": 0.0, "betas": [0, 0.5], "steps": 1, "clip": 1e-9, "crop": 0}
    check(plan(recipe=Recipe(batch_size=1, epochs=1, decay_every=1, **ends)))


class Positions(nn.Module):
    """Adds positions from a buffer that is not persistent, and therefore not in any tree."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.register_buffer("positions", torch.arange(6.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + self.positions)


def test_a_run_on_another_device_moves_the_whole_model() -> None:
    here = plan().replace(net=nets.make(Positions()), device="meta")
    there = on_device(here)
    tensors = [*there.net.params.values(), *there.net.buffers.values(), *there.dataset.train.values()]
    assert {t.device.type for t in [*tensors, there.net.model.positions]} == {"meta"}
    assert here.net.model.positions.device.type == "cpu"
    assert on_device(plan()).net.model is not None and on_device(here.replace(device="cpu")).net.model is here.net.model

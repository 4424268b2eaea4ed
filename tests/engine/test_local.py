"""Workers in processes of this machine: they equal one process, are replaced if lost, and none outlives the run."""

from __future__ import annotations

import inspect
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fedloru as fl
from fedloru import api, config
from fedloru.engine.local import frames
from fedloru.engine.local.pool import Pool
from fedloru.errors import ConfigError, FedloruError, ModelError, TrainingError
from fedloru.method import Down, State, Total, Up
from fedloru.reported_run import ReportedRun
from fedloru.rng import gen
from fedloru.session import Job
from fedloru.wire import Traffic
from tests.double import DOUBLE
from tests.engine.cohort import near

SETTINGS: dict[str, Any] = {
    "rounds": 3,
    "data": {"source": "digits"},
    "model": {"name": "mlp", "hidden": [8]},
    "partition": {"clients": 6},
    "cohort": {"size": 4},
}


def start(folder: Path, engine: dict[str, Any], **changes: Any) -> ReportedRun:
    return api.start(config.parse(SETTINGS | changes | {"engine": engine, "output": {"dir": str(folder)}}))


def processes(run: ReportedRun) -> list[Any]:
    """Return the processes of a run, from the pool that its engine holds."""
    pool = inspect.getclosurevars(run.engine.run).nonlocals["pool"]
    return [handle.process for handle in pool._all]


# A basis with more columns than the increment has directions above rounding would enlarge rounding.
MERGING = {"method": {"name": "fedloru", "tau": 1}, "lowrank": {"rank": 2}}
PERSONAL = {"method": {"name": "pfedloru"}, "partition": {"clients": 6, "scheme": "dirichlet", "alpha": 1.0}}
# Workers add clients in another order. In float32, what that rounds may change a code, and with it the whole increment.
CODES = MERGING | {"wire": {"codec": "int4"}, "model": {"name": DOUBLE}}
RANKS = {"method": {"name": "fedhm"}, "lowrank": {"rank": 4, "capacities": {"2": 0.5}}}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("auto", MERGING),
        pytest.param("sequential", MERGING, marks=pytest.mark.slow),
        pytest.param("sequential", CODES, marks=pytest.mark.slow),
        pytest.param("fused", PERSONAL, marks=pytest.mark.slow),
        pytest.param("auto", RANKS, marks=pytest.mark.slow),
    ],
)
def test_two_workers_equal_one_process(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    runs = [start(tmp_path / str(workers), {"name": name, "workers": workers}, **changes) for workers in (1, 2)]
    one, two = (list(run) for run in runs)
    assert runs[1].engine.name == runs[0].engine.name and runs[1].engine.workers == 2
    for part in ("base", "shared", "aux"):
        mine, theirs = (getattr(run.state, part) for run in runs)
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[key], theirs[key], rtol=1e-4, atol=1e-5) for key in mine)
    for row, other in zip(one, two, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        # The header of a reply holds its loss in digits, whose number depends on the last bits.
        assert row["up_bytes"] == pytest.approx(other["up_bytes"], abs=8 * 4)


@pytest.mark.slow
def test_the_same_number_of_workers_gives_the_same_bits(tmp_path: Path) -> None:
    runs = [start(tmp_path / str(again), {"workers": 2}) for again in range(2)]
    losses = [[row["train_loss"] for row in run] for run in runs]
    assert fl.tree.equal(runs[0].tensors, runs[1].tensors) and losses[0] == losses[1]


MODEL = """
import os, signal
from pathlib import Path
import torch
from torch import nn

FIRST = os.environ["FIRST"]

class Deadly(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        print("a model may print")
        order = Path(os.environ["ORDER"])
        if str(os.getpid()) != FIRST and order.exists():
            try:
                if order.read_text() == "once":
                    order.unlink()
            except FileNotFoundError:  # another worker has taken it
                return self.fc(x.flatten(1))
            os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        return self.fc(x.flatten(1))

def model(*, channels, size, classes):
    return Deadly(channels * size * size, classes)

def other(*, channels, size, classes):
    if str(os.getpid()) == FIRST:
        return Deadly(channels * size * size, classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))

def missing(*, channels, size, classes):
    if str(os.getpid()) != FIRST:
        raise RuntimeError("not here")
    return Deadly(channels * size * size, classes)
"""


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Return the settings of a model in a file of the user; workers die while the file ``kill`` exists."""
    (tmp_path / "deadly_models.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIRST", str(os.getpid()))
    monkeypatch.setenv("ORDER", str(tmp_path / "kill"))
    monkeypatch.delitem(sys.modules, "deadly_models", raising=False)
    return lambda name: {"model": {"name": f"python:deadly_models:{name}"}, "method": {"name": "fedavg"}}


def test_a_worker_killed_in_a_round_is_replaced(
    custom: Callable[[str], dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = start(tmp_path / "undisturbed", {"workers": 2}, **custom("model"))
    losses = [row["train_loss"] for row in undisturbed]
    disturbed = start(tmp_path / "disturbed", {"workers": 2}, **custom("model"))
    (tmp_path / "kill").write_text("once")
    assert [row["train_loss"] for row in disturbed] == losses
    assert not (tmp_path / "kill").exists() and "a worker was lost, so another one trains client" in caplog.text
    assert fl.tree.equal(undisturbed.tensors, disturbed.tensors)


@pytest.mark.slow
def test_a_part_whose_workers_are_always_lost_ends_the_run(
    custom: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    run = start(tmp_path / "run", {"name": "sequential", "workers": 2}, **custom("model"))
    (tmp_path / "kill").write_text("always")
    with pytest.raises(FedloruError, match=r"^round 1: 3 workers were lost while they trained clients .*exit code"):
        next(iter(run))


@pytest.mark.slow
def test_workers_that_make_another_model_are_refused(custom: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(FedloruError, match="a worker made another model than the run"):
        start(tmp_path / "run", {"workers": 2}, **custom("other"))
    with pytest.raises(ModelError, match="RuntimeError: not here"):
        start(tmp_path / "run", {"workers": 2}, **custom("missing"))


@pytest.mark.slow
def test_the_processes_end_with_the_run(tmp_path: Path) -> None:
    run = start(tmp_path / "run", {"workers": 2})
    next(iter(run))
    started = processes(run)
    assert len(started) == 2 and all(process.poll() is None for process in started)
    del run
    assert all(process.wait(10) is not None for process in started)


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_the_run_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tmp_path / "run", {"workers": 2})
    whole = [row["train_loss"] for row in start(tmp_path / "whole", {"workers": 2})]
    started = processes(run)
    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(iter(run))
    assert all(process.wait(10) is not None for process in started)
    del run
    assert [row["train_loss"] for row in api.resume(tmp_path / "run")] == whole


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a group of processes")
def test_ctrl_c_on_the_terminal_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedloru", "run", "digits", "-s", "engine.workers=2", "-s", "rounds=100000"]
    run = subprocess.Popen(
        [*command, "-s", "eval.every=100000", "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if tests run in the background
    )
    rows = tmp_path / "run" / "rounds.jsonl"
    deadline = time.monotonic() + 90
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130 and "Stopped." in said and "Traceback" not in said
    with pytest.raises(ProcessLookupError):  # nobody is left in the group
        for _ in range(100):
            os.killpg(run.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
def test_a_client_that_diverges_gives_the_error_of_one_process(tmp_path: Path) -> None:
    errors = []
    for workers in (1, 2):
        run = start(
            tmp_path / str(workers), {"name": "sequential", "workers": workers}, client={"lr": 1e30, "clip": 0.0}
        )
        with pytest.raises(TrainingError) as refused:
            list(run)
        errors.append(refused.value)
    assert str(errors[0]) == str(errors[1])
    assert (errors[0].client, errors[0].round) == (errors[1].client, errors[1].round)


def test_a_model_from_python_is_refused_with_advice() -> None:
    data = fl.data.load("digits")
    net = fl.make(fl.models.build("mlp", channels=1, size=8, classes=10, seed=0))
    with pytest.raises(ConfigError, match=r"workers is 2, but a model that was made in Python .* configuration"):
        fl.run(net, fl.fedavg(), data, fl.data.iid(data, clients=4), rounds=1, cohort=2, workers=2)


def test_other_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers is 2, but the device is 'cuda'"):
        Pool(2, torch.device("cuda"))


def sent(value: Any) -> Any:
    file = io.BytesIO()
    frames.write(file, value)
    file.seek(0)
    return frames.read(file)


def test_what_is_sent_arrives_bit_for_bit() -> None:
    x = torch.randn(3, 4, generator=gen(0, "x"))
    values = {
        "a": x,
        "transposed": x.T,
        "view": x[1:],
        "bf16": x.bfloat16(),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(float("nan")),
        "flags": x > 0,
    }
    job = sent([Job(3, torch.arange(2), values, (("rank", 2.0),))])[0]
    assert type(job) is Job and fl.tree.equal(job.client_state, values) and job.profile == (("rank", 2.0),)
    total = Total(2.5, Up({"a": x}), {}, ())
    state = State(1, 2, 0, {"w": x}, {}, {}, {})
    assert sent((total, state))[0].weight == 2.5 and near(sent(state).base, state.base)
    same = Down({"a": x, "b": x})
    arrived = sent(same)
    assert arrived.shared["a"] is arrived.shared["b"]
    numbers = [None, True, 3, -(2**80), 0.1, float("inf"), "ü\ud800", {}, (), [], {3: {(): 1}}, torch.bfloat16]
    assert sent(numbers) == numbers
    traffic = Traffic(up={"factors": 3})
    assert sent({(("rank", 2.0),): traffic}) == {(("rank", 2.0),): traffic}


def test_errors_arrive_with_their_attributes() -> None:
    error = sent(TrainingError("it failed", client=3, round=7))
    assert (type(error), str(error), error.client) == (TrainingError, "client 3, round 7: it failed", 3)
    assert sent(ConfigError(["a", "b"])).problems == ("a", "b")
    assert isinstance(sent(torch.OutOfMemoryError("no room")), torch.OutOfMemoryError)


def test_nothing_else_is_made_from_a_frame() -> None:
    with pytest.raises(TypeError, match="a object cannot be sent"):
        sent(object())
    for text in ('{"function": "os:system"}', '{"function": "fedlorux:y"}'):
        with pytest.raises(ValueError, match="not a function of this package"):
            frames._decoded(json.loads(text), {})
    with pytest.raises(KeyError):
        frames._decoded({"record": "Popen", "of": []}, {})

"""The Ray engine: it equals the fused engine, survives lost workers, and refuses what its workers cannot make."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch import Tensor, nn

import fedloru as fl
from fedloru import api, config
from fedloru.engine import Chosen, Task, choose
from fedloru.engine.ray import pool
from fedloru.errors import ConfigError, FedloruError, ModelError, RunFolderError, TrainingError
from fedloru.method import State
from fedloru.methods import fedavg
from fedloru.recipe import Recipe
from fedloru.reported_run import ReportedRun
from fedloru.run.diagnostics import UpdateStatistics
from fedloru.wire import Channel, Traffic
from tests.engine.cohort import Cohort, built, jobs, near, vectors
from tests.laws.cases import World, world

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
TOLERANCE = 1e-9


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[Any]:
    """Start a small Ray for all tests of this file."""
    module = pytest.importorskip("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    module.init(
        address="local",
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield module
    module.shutdown()


class Trained(NamedTuple):
    """What three rounds of a world lead to."""

    state: State
    losses: list[float]
    traffic: Traffic
    client_states: dict[int, fl.tree.Params]
    statistics: list[UpdateStatistics]


def three_rounds(cell: World, engine: str, **settings: Any) -> Trained:
    state = cell.method.init(cell.net, 3)
    chosen = choose(engine, cell.net, cell.method, state, cell.data, cell.recipe, **settings)
    work = sorted(cell.jobs, key=lambda job: job.profile)
    channel, losses, statistics = Channel(cell.net, cell.method.name, "run", "exact"), [], []
    for _ in range(3):
        statistics.append(UpdateStatistics(cell.net))
        outcome = chosen.run(Task(state, work, cell.recipe, 3, channel, statistics[-1].add))
        work = [job._replace(client_state=outcome.client_state.get(job.client, job.client_state)) for job in work]
        losses.append(outcome.loss)
        state = cell.method.server(cell.net, state, outcome.total)
    return Trained(state, losses, channel.traffic, {job.client: job.client_state for job in work}, statistics)


@pytest.mark.parametrize("method", ["fedavg", "fedloru", "pfedloru", "mfedloru", "flora", "fedhm", "scaffold"])
def test_two_workers_equal_the_fused_engine(method: str) -> None:
    cell = world(method, "mlp")
    fused, ray = three_rounds(cell, "fused"), three_rounds(cell, "ray", workers=2)
    assert ray.state.version == fused.state.version
    for part in ("base", "shared", "aux"):
        assert near(getattr(ray.state, part), getattr(fused.state, part))
    assert ray.losses == pytest.approx(fused.losses, abs=TOLERANCE)
    # The header of a reply holds its loss in digits, whose number depends on the last bits.
    for direction in ("up", "down"):
        counted, expected = ray.traffic.table()[direction], fused.traffic.table()[direction]
        assert counted | {"envelope": 0} == expected | {"envelope": 0}
        assert counted["envelope"] == pytest.approx(expected["envelope"], abs=8 * 4 * 3)
    assert all(near(ray.client_states[client], fused.client_states[client]) for client in fused.client_states)
    for mine, theirs in zip(ray.statistics, fused.statistics, strict=True):
        assert mine.cosine() == pytest.approx(theirs.cosine(), abs=1e-6)
        assert mine.gaps() == pytest.approx(theirs.gaps(), abs=TOLERANCE)
        assert mine.client_ranks().keys() == theirs.client_ranks().keys()
        for site, ranks in theirs.client_ranks().items():
            assert mine.client_ranks()[site] == pytest.approx(ranks, abs=1e-6)


class Deadly(nn.Module):
    """Kills a process that trains it, other than the first one, while the file ``order`` exists."""

    def __init__(self, order: Path, once: bool) -> None:
        super().__init__()
        self.fc, self.order, self.once, self.first = nn.Linear(6, 3), order, once, os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.first and self.order.exists():
            if self.once:
                self.order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.fc(x)


def deadly(order: Path, *, once: bool) -> tuple[Cohort, Chosen]:
    """Return a cohort and its engine of two workers."""
    cohort = Cohort(built(lambda: Deadly(order, once)), fedavg(), vectors())
    return cohort, choose_ray(cohort)


def choose_ray(cohort: Cohort) -> Chosen:
    state = cohort.method.init(cohort.net, 3)
    return choose("ray", cohort.net, cohort.method, state, cohort.data, cohort.recipe, workers=2)


def task(cohort: Cohort, round: int = 1) -> Task:
    state = cohort.method.init(cohort.net, 3)._replace(round=round - 1)
    return Task(state, jobs(), cohort.recipe, 3, Channel(cohort.net, cohort.method.name, "run", "exact"))


def test_a_worker_killed_in_a_round_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order = tmp_path / "kill"
    cohort, chosen = deadly(order, once=True)
    undisturbed = chosen.run(task(cohort))
    order.touch()
    disturbed = chosen.run(task(cohort))
    assert not order.exists()
    assert "round 1: a worker was lost, so another one trains client" in caplog.text
    assert disturbed.loss == undisturbed.loss and disturbed.total.weight == undisturbed.total.weight
    assert fl.tree.equal(disturbed.total.sum.shared, undisturbed.total.sum.shared)


def test_a_part_whose_workers_are_always_lost_ends_the_run(tmp_path: Path) -> None:
    order = tmp_path / "kill"
    cohort, chosen = deadly(order, once=False)
    threading.Timer(0, order.touch).start()
    with pytest.raises(FedloruError, match=r"^round 7: (3 workers were lost|no worker of Ray can be started)"):
        for _ in range(3):
            chosen.run(task(cohort, round=7))


def test_a_client_that_diverges_gives_the_error_of_the_sequential_engine() -> None:
    cohort = Cohort(built(lambda: nn.Linear(6, 3)), fedavg(), vectors(), Recipe(lr=0.1, batch_size=4))
    cohort.data["x"][10, 2] = float("nan")  # of client 1
    cohort.data["x"][30, 2] = float("nan")  # of client 3, in the other part
    errors = []
    for engine in ("sequential", "ray"):
        with pytest.raises(TrainingError) as refused:
            cohort.train(cohort.method.init(cohort.net, 3), engine, jobs())
        errors.append(refused.value)
    assert str(errors[0]) == str(errors[1]) and "client 1, round 1" in str(errors[1])
    assert (errors[1].client, errors[1].round) == (1, 1)


def test_a_model_that_cannot_be_sent_is_refused() -> None:
    module = nn.Linear(6, 3)
    module.lock = threading.Lock()  # type: ignore[assignment]
    net = fl.make(module.double())
    with pytest.raises(
        ModelError, match=r"cannot be sent to the workers of Ray \(TypeError: cannot pickle '_thread.lock'"
    ):
        choose_ray(Cohort(net, fedavg(), vectors()))


def test_a_model_whose_module_workers_cannot_import_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = type("Lost", (nn.Linear,), {"__module__": "only_here"})
    module = type(sys)("only_here")
    module.Lost = lost  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ModelError, match=r"cannot load the model .*No module named 'only_here'.*every machine"):
        choose_ray(Cohort(fl.make(lost(6, 3).double()), fedavg(), vectors()))


def test_a_method_that_was_changed_is_refused() -> None:
    changed = fedavg()._replace(reduce=lambda *args: args)
    with pytest.raises(ConfigError, match="but reduce of this one was replaced"):
        choose_ray(Cohort(built(lambda: nn.Linear(6, 3)), changed, vectors()))


def test_other_versions_on_a_worker_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = pool.Process.this()._replace(versions={"fedloru": "9.9", "torch": "1.0"})
    monkeypatch.setattr(pool.Process, "this", staticmethod(lambda: other))
    with pytest.raises(FedloruError, match=r"but the run has fedloru 9.9 and torch 1.0: install the same"):
        choose_ray(Cohort(built(lambda: nn.Linear(6, 3)), fedavg(), vectors()))


SETTINGS = {
    "rounds": 3,
    "data": {"source": "digits"},
    "model": {"name": "mlp", "hidden": [8]},
    "lowrank": {"targets": ["fc1"]},
    "partition": {"clients": 6},
    "cohort": {"size": 4},
    "output": {"checkpoint_every": 1},
}


def start(folder: Path, **engine: Any) -> ReportedRun:
    return api.start(config.parse(SETTINGS | {"engine": engine, "output": {"checkpoint_every": 1, "dir": str(folder)}}))


def test_a_run_is_resumed_bit_for_bit_with_as_many_workers(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", name="ray", workers=2)
    rows = list(whole)
    stopped = start(tmp_path / "stopped", name="ray", workers=2)
    next(iter(stopped))
    del stopped
    resumed = api.resume(tmp_path / "stopped")
    assert len(list(resumed)) == 2
    assert fl.tree.equal(resumed.tensors, whole.tensors)
    assert [row["train_loss"] for row in resumed.rows] == [row["train_loss"] for row in rows]
    assert whole.summary()["engine_reason"].startswith("2 workers, each with the engine 'fused'")


def test_another_number_of_workers_is_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "capacity", lambda device: 1)
    next(iter(start(tmp_path / "run", name="ray")))
    monkeypatch.setattr(pool, "capacity", lambda device: 2)
    with pytest.raises(RunFolderError, match="workers was 1, is 2"):
        api.resume(tmp_path / "run")
    assert len(list(api.resume(tmp_path / "run", accept_changes=True))) == 2


def test_parts_beyond_the_cpus_wait_for_a_worker() -> None:
    cohort = Cohort(built(lambda: nn.Linear(6, 3)), fedavg(), vectors())
    state = cohort.method.init(cohort.net, 3)
    total = cohort.train(state, "ray", jobs(), workers=4).total
    assert near(total.sum.shared, cohort.train(state, "fused", jobs()).total.sum.shared)


SCRIPT = """
import fedloru as fl, ray
from torch import nn
data = fl.data.load("digits")
net = fl.attach(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), rank=2, targets=["1"])
run = fl.run(net, fl.fedloru(), data, fl.data.iid(data, clients=4), rounds=1, cohort=2, engine="ray", workers=2)
for row in run: print(row["round"], ray.is_initialized())
del run
print(ray.is_initialized())
"""


def test_a_ray_that_a_run_has_started_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('not the installed torch')")
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.split() == ["1", "True", "False"], done.stderr


def test_an_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fedloru", "run", "small", "-s", "engine.name=ray", "--out", "run"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "there is no Ray cluster at '127.0.0.1:1'" in done.stderr and "Traceback" not in done.stderr

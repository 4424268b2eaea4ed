"""The increments in a run folder: one file per merge, also if the run was interrupted or reset."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloru import lowrank, methods, tree
from fedloru.errors import RunFolderError
from fedloru.lowrank import Increment
from fedloru.method import Method
from fedloru.run import increments
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.run.plan import Plan
from tests.run.killed import Killed, killed_after
from tests.run.test_run import plan

MERGING = {
    "fedloru": lambda: methods.fedloru(recipe="paper", tau=2),
    "fedloru-keep": lambda: methods.fedloru(recipe="paper", tau=2, reset="keep"),
    "fedloru-exact": lambda: methods.fedloru(recipe="paper", tau=2, accumulate="exact"),
    "mfedloru": lambda: methods.mfedloru(tau=2),
    "pfedloru": lambda: methods.pfedloru(tau=2),
    "fedmud": lambda: methods.fedmud(interval=2),
    "fedex": methods.fedex,
    "flora": methods.flora,
}


def kept(**settings: Any) -> Plan:
    return plan(increments=True, checkpoint_every=2).replace(**settings)


def files(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.increments.glob("*"))}


def made(path: Path, made_plan: Plan) -> Run:
    return Run(made_plan, RunFolder.create(path, {}, {}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of an uninterrupted run."""
    run = made(tmp_path_factory.mktemp("whole") / "run", kept())
    list(run)
    assert run.folder is not None
    return files(run.folder)


@pytest.mark.parametrize("name", MERGING)
def test_the_increments_give_the_final_base(name: str, tmp_path: Path) -> None:
    """Merged into W₀ one after another, they give the final base bit for bit."""
    method: Method = MERGING[name]()
    run = made(tmp_path / "run", kept(method=method))
    list(run)
    assert run.folder is not None
    loaded = increments.load(run.folder.increments, run.state.version)
    assert len(loaded) == run.state.version == (6 if name in ("fedex", "flora") else 3)
    base = dict(run.plan.net.params)
    for loaded_increment in loaded:
        base = lowrank.merge(loaded_increment.sites, base, loaded_increment.factors)
    (site,) = run.plan.net.sites
    assert torch.equal(base[site.weight], run.state.base[site.weight])
    assert not torch.equal(base[site.weight], run.plan.net.params[site.weight])


def test_methods_without_merges_and_plans_without_increments_write_no_file(tmp_path: Path) -> None:
    for name, made_plan in {"fedlora": kept(method=methods.fedlora()), "default": plan()}.items():
        run = made(tmp_path / name, made_plan)
        list(run)
        assert not (tmp_path / name / "increments").exists()


@pytest.mark.parametrize("round", [0, 4])
def test_a_run_that_is_reset_removes_later_increments_and_reproduces_them(
    round: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    run = made(tmp_path / "run", kept())
    list(run)
    again = RunFolder.open(tmp_path / "run")
    rows = iter(Run(kept(), again, again.latest("cpu", from_round=round)))
    next(rows)
    rows.close()
    assert list(files(again)) == list(whole)[: round // 2]
    again = RunFolder.open(tmp_path / "run")
    list(Run(kept(), again, again.latest("cpu")))
    assert files(again) == whole


def test_a_run_killed_anywhere_around_a_merge_has_the_same_increments(whole: dict[str, bytes], tmp_path: Path) -> None:
    for changes in count():
        path = tmp_path / f"killed-{changes}"
        run = made(path, kept())
        rows = iter(run)
        for _ in range(3):
            next(rows)
        try:
            with killed_after(changes):
                next(rows)
        except Killed:
            rows.close()
            again = RunFolder.open(path)
            list(Run(kept(), again, again.latest("cpu")))
            assert files(again) == whole
            continue
        break
    assert changes > 5


def test_the_increment_merged_before_the_run_is_never_removed(tmp_path: Path) -> None:
    net = plan().net
    drawn = Increment(net.sites, lowrank.init_factors(net.sites, 5, 0, net.params, "both"))
    folder = RunFolder.create(tmp_path / "run", {}, {}, imported=drawn)
    list(Run(kept(), folder))
    folder.go_back(0, 0)
    (first,) = increments.load(folder.increments, 0)
    assert increments.versions(folder.increments) == [0]
    assert first.sites == drawn.sites and tree.equal(first.factors, dict(sorted(drawn.factors.items())))


def test_missing_and_damaged_increments_are_reported(tmp_path: Path) -> None:
    run = made(tmp_path / "run", kept())
    list(run)
    folder = tmp_path / "run" / "increments"
    (folder / "v000002.safetensors").write_bytes(b"{}")
    with pytest.raises(RunFolderError, match=r"v000002\.safetensors cannot be read"):
        increments.load(folder, 2)
    (folder / "v000002.safetensors").unlink()
    with pytest.raises(RunFolderError, match="lacks the increments of versions 2, of 3 in all"):
        increments.load(folder, 3)
    assert len(increments.load(folder, 1)) == 1

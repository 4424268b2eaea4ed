"""The increments of a run in its folder: one file a merge, the same whatever became of the run."""

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
    "fedloru": lambda: methods.fedloru(tau=2),
    "fedloru-keep": lambda: methods.fedloru(tau=2, reset="keep"),
    "fedloru-exact": lambda: methods.fedloru(tau=2, accumulate="exact"),
    "mfedloru": lambda: methods.mfedloru(tau=2),
    "pfedloru": lambda: methods.pfedloru(tau=2),
    "fedmud": lambda: methods.fedmud(interval=2),
    "fedex": methods.fedex,
    "flora": methods.flora,
}


def kept(**settings: Any) -> Plan:
    return plan(increments=True, checkpoint_every=2)._replace(**settings)


def files(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.increments.glob("*"))}


def made(path: Path, made_plan: Plan) -> Run:
    return Run(made_plan, RunFolder.create(path, {}, {}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of a run that nothing happened to."""
    run = made(tmp_path_factory.mktemp("whole") / "run", kept())
    list(run)
    assert run.folder is not None
    return files(run.folder)


@pytest.mark.parametrize("name", MERGING)
def test_the_increments_are_all_that_happened_to_the_base(name: str, tmp_path: Path) -> None:
    """Merged into W₀ one after another, they make the base of the end, bit for bit."""
    method: Method = MERGING[name]()
    run = made(tmp_path / "run", kept(method=method))
    list(run)
    assert run.folder is not None
    loaded = increments.load(run.folder.increments, run.state.version)
    assert len(loaded) == run.state.version == (6 if name in ("fedex", "flora") else 3)
    base = dict(run.plan.net.params)
    for each in loaded:
        base = lowrank.merge(each.sites, base, each.factors)
    (site,) = run.plan.net.sites
    assert torch.equal(base[site.weight], run.state.base[site.weight])
    assert not torch.equal(base[site.weight], run.plan.net.params[site.weight])


def test_methods_that_merge_nothing_and_plans_that_keep_nothing_leave_no_file(tmp_path: Path) -> None:
    for name, made_plan in {"fedlora": kept(method=methods.fedlora()), "unasked": plan()}.items():
        run = made(tmp_path / name, made_plan)
        list(run)
        assert not (tmp_path / name / "increments").exists()


@pytest.mark.parametrize("round", [0, 4])
def test_a_run_that_went_back_forgets_later_increments_and_makes_the_same_again(
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


def test_a_run_killed_anywhere_around_a_merge_comes_to_the_same_increments(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
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


def test_what_was_merged_beforehand_stays_whatever_happens(tmp_path: Path) -> None:
    net = plan().net
    drawn = Increment(net.sites, lowrank.fresh(net.sites, 5, 0, net.params, "both"))
    folder = RunFolder.create(tmp_path / "run", {}, {}, imported=drawn)
    list(Run(kept(), folder))
    folder.go_back(0, 0)
    (first,) = increments.load(folder.increments, 0)
    assert increments.versions(folder.increments) == [0]
    assert first.sites == drawn.sites and tree.equal(first.factors, dict(sorted(drawn.factors.items())))


def test_missing_and_damaged_increments_are_told(tmp_path: Path) -> None:
    run = made(tmp_path / "run", kept())
    list(run)
    place = tmp_path / "run" / "increments"
    (place / "v000002.safetensors").write_bytes(b"{}")
    with pytest.raises(RunFolderError, match=r"v000002\.safetensors cannot be read"):
        increments.load(place, 2)
    (place / "v000002.safetensors").unlink()
    with pytest.raises(RunFolderError, match="lacks the increments of versions 2, of 3 in all"):
        increments.load(place, 3)
    assert len(increments.load(place, 1)) == 1

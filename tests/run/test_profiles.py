"""Statistics by profile, in both engines and across checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedloru.method import profile_name
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.wire import KINDS, Traffic, cost_by_profile
from tests.laws.cases import METHODS, world
from tests.laws.test_runs import plan


def summed(accounts: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    return sum((Traffic(one["down"], one["up"]) for one in accounts), Traffic()).table()


DIFFERENT = [name for name, make in METHODS.items() if make().traits.ranks != "one"]


@pytest.mark.parametrize("method", DIFFERENT)
@pytest.mark.parametrize(("engine", "round_trip"), [("sequential", True), ("fused", True), ("fused", False)])
def test_measured_bytes_are_the_formula_and_an_envelope_for_every_profile(
    method: str, engine: str, round_trip: bool
) -> None:
    cell = world(method, "mlp", torch.float32)
    run = Run(plan(cell, engine=engine, codec="fp32", round_trip=round_trip, diagnostics=False, rounds=4))
    rows = list(run)
    profiles = run.plan.profiles
    by_formula = cost_by_profile(cell.net, cell.method, [row["cohort"] for row in rows], profiles=profiles)
    for row, formula in zip(rows, by_formula, strict=True):
        present = [profiles[client] for client in row["cohort"]]
        assert list(row["profiles"]) == [profile_name(profile) for profile in sorted(set(present))]
        assert summed(list(row["profiles"].values())) == row["bytes"]
        for profile, expected in formula.items():
            counts = row["profiles"][profile_name(profile)]
            assert counts["clients"] == present.count(profile)
            for way in ("down", "up"):
                envelope = counts[way].pop("envelope", 0)
                formula_says = {kind: count for kind, count in expected.table()[way].items() if count}
                if way == "up" and cell.method.traits.prunes:
                    assert all(count <= formula_says[kind] for kind, count in counts[way].items())
                else:
                    assert counts[way] == formula_says
                assert (envelope > 0) is round_trip


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_profiles_of_a_resumed_run_are_those_of_the_whole_one(engine: str, tmp_path: Path) -> None:
    cell = world("flora", "mlp", torch.float32)
    whole = Run(plan(cell, engine=engine, diagnostics=False))
    rows = list(whole)
    folder = RunFolder.create(tmp_path / "run", {}, {})
    for row in Run(plan(cell, engine=engine, diagnostics=False), folder):
        if row["round"] == 5:
            break
    again = RunFolder.open(tmp_path / "run")
    resumed = Run(plan(cell, engine=engine, diagnostics=False), again, again.latest("cpu", from_round=4))
    assert [row["profiles"] for row in resumed] == [row["profiles"] for row in rows[4:]]
    counts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert counts["profiles"] == whole.summary()["profiles"] == resumed.summary()["profiles"]
    assert summed(list(counts["profiles"].values())) == counts["bytes"]
    assert {name: one["clients"] for name, one in counts["profiles"].items()} == {"usual": 2, "rank 1": 2}
    ranked = [client for client, profile in enumerate(whole.plan.profiles) if profile]
    assert counts["profiles"]["rank 1"]["client_rounds"] == sum(
        client in row["cohort"] for row in rows for client in ranked
    )
    assert counts["profiles"]["usual"]["up"].keys() == set(KINDS)


def test_clients_of_the_default_profile_add_nothing_to_records() -> None:
    run = Run(plan(world("fedloru", "mlp", torch.float32), rounds=1))
    assert all("profiles" not in row for row in run) and "profiles" not in run.summary()


def test_a_profile_that_never_took_part_has_sent_nothing() -> None:
    cell = world("hetlora", "mlp", torch.float32)
    ranks = tuple((("rank", rank),) for rank in (1.0, 1.0, 2.0, 2.0))
    run = Run(plan(cell, profiles=ranks, rounds=1, cohort=1))
    (row,) = run
    (name,) = row["profiles"]
    counts = run.summary()["profiles"]
    (other,) = counts.keys() - {name}
    assert {name, other} == {"rank 1", "rank 2"}
    assert counts[other] == {"clients": 2, "client_rounds": 0, **Traffic().table()}


def test_different_profiles_have_different_names() -> None:
    assert profile_name(()) == "usual"
    assert profile_name((("rank", 2.0),)) == profile_name((("rank", 2),)) == "rank 2"
    assert profile_name((("bits", 4.0), ("rank", 0.1 + 0.2))) == "bits 4, rank 0.30000000000000004"

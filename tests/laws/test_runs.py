"""Laws of runs: catch-up is bit-exact, resume is bit-exact, byte formula, seeded draws; with real messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedloru import lowrank, tree
from fedloru.data import Dataset, Partition
from fedloru.rng import gen
from fedloru.run.client_state import OnDisk
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.run.plan import Plan
from fedloru.run.sampling import cohort
from fedloru.wire import Ledger, MessageSpec, Sync, catch_up, cost, decode_sync, encode_sync
from tests.laws.cases import METHODS, NOT_MERGING, World, rotated, world


def plan(cell: World, **settings: object) -> Plan:
    """Return a run of seven rounds over three of four clients."""
    test = {key: value[:8] for key, value in cell.data.items()}
    dataset = Dataset("table", cell.data, test, ("a", "b", "c", "d"))
    partition = Partition("table", 0, tuple(job.rows for job in cell.jobs), (), {})
    profiles = tuple(job.profile for job in cell.jobs)
    defaults = {
        "profiles": profiles,
        "rounds": 7,
        "cohort": 3,
        "recipe": cell.recipe,
        "codec": "exact",
        "checkpoint_every": 2,
    }
    return Plan(cell.net, cell.method, dataset, partition, **(defaults | settings))  # type: ignore[arg-type]


def without_time(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


WHOLE_RUNS = pytest.mark.parametrize(("method", "model"), rotated(METHODS))
"""For laws of whole runs, which take longer than a round."""


@pytest.mark.parametrize(("method", "model"), rotated(m for m in METHODS if METHODS[m]().traits.low_rank))
def test_bases_are_equal_bit_for_bit_after_catch_up(method: str, model: str) -> None:
    """Clients participate at random, lose their base at random, and receive nothing but sync messages."""
    cell = world(method, model, torch.float32)
    state = cell.method.init(cell.net, 3)
    ledger = Ledger(cell.net.sites, state)
    spec = MessageSpec(cell.net, cell.method, "run")
    held: dict[int, tree.Params] = {}
    g = gen(0, "participation", method, model)
    for _ in range(8):
        for client in torch.randperm(6, generator=g)[:3].tolist():
            if torch.rand((), generator=g) < 0.2:
                ledger.lost(client)
                held.pop(client, None)
            message = encode_sync(ledger.owed(client, state), state, method=cell.method.name, run="run", codec="exact")
            _, sync = decode_sync(message, spec)
            held[client] = catch_up(cell.net.sites, held.get(client, {}), sync)
            ledger.delivered(client, state.version)
            assert tree.equal(held[client], state.base)
        state = cell.method.server(cell.net, state, cell.train(state, "fused").total)
        ledger.record(state)
    assert state.version > 0 or method in NOT_MERGING


@pytest.mark.parametrize("engine", ["sequential", "fused"])
@pytest.mark.parametrize("method", ["fedavg", "fedloru", "fedloru-truncated", "server-adam", "fedsa", "scaffold"])
def test_a_resumed_run_equals_the_uninterrupted_one(method: str, model: str, engine: str, tmp_path: Path) -> None:
    codec = "int4" if engine == "fused" else "exact"
    cell = world(method, model, torch.float32)
    whole = Run(plan(cell, engine=engine, codec=codec))
    rows = list(whole)
    folder = RunFolder.create(tmp_path / "run", {"name": "table"}, {})
    for row in Run(plan(cell, engine=engine, codec=codec), folder):
        if row["round"] == 5:  # the last checkpoint is of round 4
            break
    again = RunFolder.open(tmp_path / "run")
    resumed = Run(plan(cell, engine=engine, codec=codec), again, again.latest("cpu", from_round=4))
    assert resumed.state.round == 4
    assert without_time([*resumed]) == without_time(rows[4:])
    assert all(tree.equal(x, y) for x, y in zip(resumed.state[3:7], whole.state[3:7], strict=True))
    written = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert without_time(written) == without_time(rows)


@WHOLE_RUNS
def test_measured_bytes_are_the_formula_and_an_envelope(cell: World) -> None:
    """The envelope of a message is at most 400 bytes plus 120 per tensor. Clients that prune send less."""
    run = Run(plan(cell, codec="fp32"))
    rows = list(run)
    cohorts = [row["cohort"] for row in rows]
    by_formula = cost(cell.net, cell.method, cohorts, profiles=run.plan.profiles, codec="fp32")
    tensors = len(run.state.shared) + len(run.state.base) + 2 * len(cell.net.sites) * 4
    for row, expected in zip(rows, by_formula, strict=True):
        for way, table in expected.table().items():
            measured = dict(row["bytes"][way])
            envelope = measured.pop("envelope")
            table.pop("envelope")
            if way == "up" and cell.method.traits.prunes:
                assert measured["factors"] <= table["factors"]
                table["factors"] = measured["factors"]
            assert measured == table
            assert 0 < envelope <= 3 * 2 * (400 + 120 * tensors)


def test_by_hand_for_one_layer() -> None:
    """Linear 6 → 4 with bias, r = 2: factors 2·(4 + 6) = 20 values, θ = 4, base 24 values; 4 bytes each."""
    from fedloru import methods
    from fedloru import net as nets

    net = nets.attach(torch.nn.Linear(6, 4), rank=2)
    rounds = cost(net, methods.fedloru(recipe="paper", tau=2), [[0, 1], [0, 1], [0, 1], [0, 2]])
    down = [each.table()["down"] for each in rounds]
    assert [d["factors"] for d in down] == [0, 2 * 20 * 4, 0, 2 * 20 * 4]  # drawn, sent, drawn, sent
    assert [d["dense"] for d in down] == [2 * 4 * 4] * 4
    assert [d["first_download"] for d in down] == [2 * 24 * 4, 0, 0, 24 * 4]
    assert [d["increments"] for d in down] == [0, 0, 2 * 20 * 4, 0]
    assert [each.table()["up"]["factors"] for each in rounds] == [2 * 20 * 4] * 4


@pytest.mark.parametrize("method", ["fedloru", "fedavg", "fedlora", "ffalora"])
@pytest.mark.parametrize(
    "settings",
    [
        {"round_trip": False},
        {"first_download": False},
        {"codec": "bf16"},
        {"codec": "int8"},
        {"codec": "int4"},
        {"codec": "int4", "round_trip": False},
    ],
)
def test_holds_with_other_settings_of_the_wire(settings: dict[str, object], method: str) -> None:
    cell = world(method, "cnn-batch", torch.float32)
    run = Run(plan(cell, **({"codec": "fp32"} | settings)))
    rows = list(run)
    codec, first = str(settings.get("codec", "fp32")), bool(settings.get("first_download", True))
    expected = cost(cell.net, cell.method, [row["cohort"] for row in rows], codec=codec, first_download=first)
    for row, formula in zip(rows, expected, strict=True):
        for way, table in formula.table().items():
            assert {**row["bytes"][way], "envelope": 0} == table
    assert run.summary()["bytes_measured"] is bool(settings.get("round_trip", True))


CODED = ("fedavg", "fedlora", "fedloru", "fedloru-exact", "ffalora", "flora")


@pytest.mark.parametrize("method", CODED)
def test_engines_agree_with_integer_codes(method: str) -> None:
    """Rounding is drawn for each client and tensor, so chunks and the order of clients change nothing."""
    cell = world(method, "mlp")
    runs = [Run(plan(cell, codec="int4", **each)) for each in ({"engine": "sequential"}, {"engine": "fused"})]
    runs.append(Run(plan(cell, codec="int4", engine="fused", chunk=2)))
    first, *others = [[*run] for run in runs]
    assert all([row["bytes"] for row in rows] == [row["bytes"] for row in first] for rows in others)
    for run in runs[1:]:
        for x, y in zip(run.state[3:7], runs[0].state[3:7], strict=True):
            assert all(torch.allclose(x[key], y[key], atol=1e-9, rtol=0) for key in y)
    exact = Run(plan(cell, engine="fused"))
    assert [*exact] and not tree.equal(exact.state.shared, runs[0].state.shared)


@pytest.mark.parametrize("method", ["fedloru", "flora"])
def test_bases_are_equal_after_catch_up_with_increments_in_codes(method: str) -> None:
    """Clients hold the base of the server bit for bit, in every round of a run with merges."""
    run = Run(plan(world(method, "mlp", torch.float32), codec="int4"))
    net, spec = run.plan.net, MessageSpec(run.plan.net, run.plan.method, "run")
    held, version = run.state.base, 0
    for _ in run:
        state = run.state
        owed = run.last.restore_ledger(net.sites, "int4").owed(9, state)
        assert owed.first  # a client that was never here
        if state.version > version:
            sent = lowrank.sent_part(net.sites, state.base, state.increment)
            increments = Sync(state.version, ((state.version, sent),), {})
            message = encode_sync(increments, state, method=run.plan.method.name, run="run", codec="int4")
            held = catch_up(net.sites, held, decode_sync(message, spec, held=version)[1])
            version = state.version
        assert tree.equal(held, state.base)
    assert version >= 3


@WHOLE_RUNS
def test_cohorts_and_rows_depend_on_the_seed_alone(cell: World) -> None:
    first, second = Run(plan(cell)), Run(plan(cell))
    torch.manual_seed(99)  # the global generator must not matter
    assert without_time([*first]) == without_time([*second])
    assert tree.equal(first.state.shared, second.state.shared)
    other = plan(cell, seed=1)
    assert [cohort(other, r) for r in range(1, 8)] != [row["cohort"] for row in first.rows]


def test_draws_are_the_same_in_another_process() -> None:
    code = "from fedloru.rng import gen, derive; print(derive(3, 'fresh', 1, 'fc.weight'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    from fedloru.rng import derive

    assert int(printed) == derive(3, "fresh", 1, "fc.weight")
    assert len({derive(*path) for path in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "1a")]}) == 6


def test_own_tensors_survive_in_the_checkpoint(tmp_path: Path) -> None:
    cell = world("fedavg", "mlp", torch.float32)

    def up(net, train, down, own, steps):  # type: ignore[no-untyped-def]
        sent, _ = cell.method.up(net, train, down, own, steps)
        return sent, {"seen": own.get("seen", torch.zeros(())) + 1}

    counting = cell._replace(method=cell.method._replace(up=up))
    folder = RunFolder.create(tmp_path / "run", {}, {})
    run = Run(plan(counting), folder)
    rows = list(run)
    times = {client: sum(client in row["cohort"] for row in rows) for client in range(4)}
    kept = OnDisk(folder.path / "clients", "cpu")
    assert {client: int(own["seen"]) for client in range(4) if (own := kept.load(client, 7))} == {
        client: n for client, n in times.items() if n
    }
    until = {client: sum(client in row["cohort"] for row in rows[:6]) for client in range(4)}
    assert [int(kept.load(client, 6).get("seen", 0)) for client in range(4)] == list(until.values())


def test_interrupted_generator_leaves_a_checkpoint_of_the_last_whole_round(tmp_path: Path) -> None:
    cell = world("fedloru", "mlp", torch.float32)
    folder = RunFolder.create(tmp_path / "run", {}, {})
    rows: Iterator[dict[str, object]] = iter(Run(plan(cell, checkpoint_every=100), folder))
    next(rows), next(rows), next(rows)
    rows.close()  # type: ignore[attr-defined]
    saved = folder.latest("cpu")
    assert saved is not None and saved.state.round == 3

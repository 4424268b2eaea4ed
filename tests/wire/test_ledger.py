from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_toy import merged, random_factors, small_net, start, toy, unmerged

from fedloru import tree
from fedloru.errors import WireError
from fedloru.method import State
from fedloru.wire import Ledger, MessageSpec, Sync, catch_up, decode, decode_sync, encode_sync, since

NET = small_net()
START = start(NET, seed=0)
DENSE = tree.nbytes({site.weight: START.base[site.weight] for site in NET.sites})
SMALL = tree.nbytes(random_factors(NET, 1, rank=1))


def after(ranks: list[int], **settings: bool) -> tuple[Ledger, State]:
    """Return the ledger and state after one merge of each rank."""
    ledger, state = Ledger(NET.sites, START, **settings), START
    for rank in ranks:
        state = merged(NET, state, random_factors(NET, state.version + 1, rank))
        ledger.record(state)
    return ledger, state


def versions(sync: Sync) -> list[int]:
    return [version for version, _ in sync.increments]


def test_a_new_client_gets_the_whole_base_and_a_client_that_lags_gets_what_it_missed() -> None:
    ledger, state = after([1, 1])
    first = ledger.owed(0, state)
    assert first.first and not first.increments and tree.equal(first.base, state.base)
    ledger.delivered(0, 1)
    assert versions(ledger.owed(0, state)) == [2] and not ledger.owed(0, state).base
    ledger.delivered(0, 2)
    assert ledger.owed(0, state) == Sync(2, (), {})


def test_clients_that_build_the_base_themselves_start_at_version_0() -> None:
    ledger, state = after([1, 1], first_download=False)
    assert versions(ledger.owed(0, state)) == [1, 2]
    assert Ledger(NET.sites, START, first_download=False).owed(0, START) == Sync(0, (), {})


def test_dense_site_weights_are_sent_only_if_strictly_smaller() -> None:
    limit = DENSE // SMALL
    for merges in range(1, limit + 3):
        ledger, state = after([1] * merges, first_download=False)
        sync = ledger.owed(0, state)
        assert bool(sync.base) == (merges * SMALL > DENSE)
        if sync.base:
            assert sync.base.keys() == {site.weight for site in NET.sites} and not sync.first
    assert limit * SMALL <= DENSE < (limit + 1) * SMALL


def test_increments_are_sent_if_the_sizes_are_equal() -> None:
    ledger = Ledger(NET.sites, START, first_download=False)
    state = START._replace(version=1, increment={"size": torch.empty(DENSE, dtype=torch.uint8)})
    ledger.record(state)
    assert versions(ledger.owed(0, state)) == [1]


def test_memory_is_bounded_by_the_dense_weights() -> None:
    ledger, state = after([1] * 50)
    assert tree.nbytes(tree.omit(ledger.save()[0], {"held"})) <= DENSE
    ledger.delivered(3, 49)
    assert versions(ledger.owed(3, state)) == [50]


def test_the_latest_increment_is_available_unless_dense_weights_are_smaller() -> None:
    assert Ledger(NET.sites, START).latest == {}
    ledger, state = after([1, 1])
    assert tree.equal(ledger.latest, state.increment)
    ledger, _ = after([1, DENSE // SMALL + 1])
    assert ledger.latest == {}


def test_a_client_ahead_of_a_restored_server_gets_dense_weights() -> None:
    ledger, state = after([1])
    ledger.delivered(0, 5)
    assert tree.equal(catch_up(NET.sites, START.base, ledger.owed(0, state)), state.base)


def test_a_version_that_skips_or_rises_without_increment_is_rejected() -> None:
    ledger = Ledger(NET.sites, START)
    ledger.record(unmerged(START))
    with pytest.raises(WireError, match="at version 0, but the state is at version 1 with 0 increment"):
        ledger.record(START._replace(version=1))
    with pytest.raises(WireError, match="the state is at version 2"):
        ledger.record(START._replace(version=2, increment=random_factors(NET, 2, 1)))


def test_save_and_load_through_json_and_a_message() -> None:
    ledger, state = after([1, 2, 1])
    ledger.delivered(7, 2)
    ledger.delivered(8, 3)
    tensors, rest = ledger.save()
    assert {key.partition("/")[0] for key in tensors} == {"increment.1", "increment.2", "increment.3", "held"}
    assert tensors["held"].tolist() == [-1] * 7 + [2, 3]
    loaded = Ledger.load(NET.sites, state, tensors, json.loads(json.dumps(rest)))
    assert tree.equal(loaded.save()[0], tensors) and loaded.save()[1] == rest
    for client in (6, 7, 8):
        assert versions(loaded.owed(client, state)) == versions(ledger.owed(client, state))
    with pytest.raises(WireError, match="version 3, but the state is at version 0"):
        Ledger.load(NET.sites, START, tensors, rest)


def test_a_ledger_of_an_earlier_version_can_be_loaded() -> None:
    ledger, state = after([1, 2, 1])
    for client, version in {7: 2, 8: 3, 0: 0}.items():
        ledger.delivered(client, version)
    tensors, rest = ledger.save()
    del tensors["held"]
    loaded = Ledger.load(NET.sites, state, tensors, rest | {"held": {"7": 2, "8": 3, "0": 0}})
    assert tree.equal(loaded.save()[0], ledger.save()[0])
    for held in ({"-1": 0}, {"0": -1}, {str(10**15): 1}):
        with pytest.raises(WireError, match="not possible"):
            Ledger.load(NET.sites, state, tensors, rest | {"held": held})


@pytest.mark.parametrize("held", [torch.tensor([0.5]), torch.tensor([[1]]), torch.tensor([-2])])
def test_damaged_versions_of_clients_are_refused(held: torch.Tensor) -> None:
    ledger, state = after([1])
    tensors, rest = ledger.save()
    with pytest.raises(WireError, match="damaged"):
        Ledger.load(NET.sites, state, tensors | {"held": held}, rest)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["delivered", "lost", "record", "save"])), max_size=60))
def test_the_array_of_versions_behaves_like_a_table_of_clients(steps: list[tuple[int, str]]) -> None:
    for first in (True, False):
        ledger, state = after([], first_download=first)
        held: dict[int, int] = {}
        for client, step in steps:
            if step == "delivered":
                ledger.delivered(client, state.version)
                held[client] = state.version
            elif step == "lost":
                ledger.lost(client)
                held.pop(client, None)
            elif step == "record":
                state = merged(NET, state, random_factors(NET, state.version + 1, 1))
                ledger.record(state)
            else:
                ledger = Ledger.load(NET.sites, state, *ledger.save())
            for each in range(42):
                version = held.get(each, None if first else 0)
                owed = ledger.owed(each, state)
                assert owed.first == (version is None)
                if version is not None and not owed.base:
                    assert versions(owed) == list(range(version + 1, state.version + 1))


def test_since_drops_merged_increments_and_rejects_gaps() -> None:
    ledger, state = after([1, 1, 1], first_download=False)
    sync = ledger.owed(0, state)
    assert versions(since(sync, 2)) == [3] and versions(since(sync, 3)) == []
    starts_late = sync._replace(increments=sync.increments[1:])
    for bad, held in ((starts_late, 0), (sync, 4)):
        with pytest.raises(
            WireError, match=f"from version {held} to version 3: report version {held} .*request the update again"
        ):
            since(bad, held)
    whole = Sync(3, (), state.base, first=True)
    assert since(whole, 0) is whole


def test_a_sync_message_without_one_of_its_increments_is_rejected() -> None:
    ledger, state = after([1, 1, 1], first_download=False)
    sync = ledger.owed(0, state)
    gap = sync._replace(increments=(sync.increments[0], sync.increments[2]))
    with pytest.raises(WireError, match=r"increment.1', 'increment.3'.*version 3.*'increment.2', 'increment.3'"):
        decode_sync(encode_sync(gap, state, method="toy", run="r", codec="exact"), MessageSpec(NET, toy(1), "r"))


def test_increments_are_sent_losslessly() -> None:
    ledger, state = after([1], first_download=False)
    data = encode_sync(ledger.owed(0, state), state, method="toy", run="r", codec="exact")
    _, sections = decode(data)
    assert tree.equal(sections["increment.1"], state.increment)


class Federation:
    """A server with its ledger, and clients that receive nothing but the bytes of its messages."""

    def __init__(self, dtype: torch.dtype, first_download: bool, clients: int) -> None:
        self.net = small_net(dtype)
        self.spec = MessageSpec(self.net, toy(1), "r")
        self.state = start(self.net, seed=0)
        self.initial_base = {} if first_download else self.state.base
        self.ledger = Ledger(self.net.sites, self.state, first_download=first_download)
        self.bases = dict.fromkeys(range(clients), self.initial_base)
        self.dense_updates = 0

    def contact(self, client: int) -> None:
        sync = self.ledger.owed(client, self.state)
        self.dense_updates += bool(sync.base) and not sync.first
        _, received = decode_sync(encode_sync(sync, self.state, method="toy", run="r", codec="exact"), self.spec)
        assert received._replace(increments=(), base={}) == sync._replace(increments=(), base={})
        self.bases[client] = catch_up(self.net.sites, self.bases[client], received)
        self.ledger.delivered(client, received.version)

    def lose_base(self, client: int) -> None:
        self.bases[client] = self.initial_base
        self.ledger.lost(client)

    def step(self, rank: int) -> None:
        if not rank:
            self.state = unmerged(self.state)
        else:
            factors = random_factors(self.net, self.state.version + 1, rank)
            self.state = merged(self.net, self.state, tree.cast_like(factors, self.net.params))
        self.ledger.record(self.state)

    def restart(self) -> None:
        tensors, rest = self.ledger.save()
        self.ledger = Ledger.load(self.net.sites, self.state, tensors, json.loads(json.dumps(rest)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_catch_up_is_bit_exact(seed: int, first: bool, dtype: torch.dtype) -> None:
    rng = random.Random(seed)
    federation = Federation(dtype, first, clients=5)
    for _ in range(25):
        for client in rng.sample(range(5), k=rng.randint(0, 3)):
            if rng.random() < 0.1:
                federation.lose_base(client)
            federation.contact(client)
            assert tree.equal(federation.bases[client], federation.state.base)
        federation.step(rank=rng.choice([0, 0, 1, 1, 1, 2, 6]))
        if rng.random() < 0.1:
            federation.restart()


def test_catch_up_is_bit_exact_with_dense_weights() -> None:
    federation = Federation(torch.float32, first_download=True, clients=2)
    for _ in range(12):
        federation.contact(0)
        federation.step(rank=1)
    for client in (0, 1):
        federation.contact(client)
        federation.step(rank=1)
    assert federation.dense_updates == 0
    for _ in range(10):
        federation.step(rank=1)
    federation.contact(1)
    assert federation.dense_updates == 1
    assert tree.equal(federation.bases[1], federation.state.base)

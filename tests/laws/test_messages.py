"""Every message of a run of every method is what its ``MessageSpec`` expects, in both directions and every round."""

from __future__ import annotations

import pytest

from fedloru import tree
from fedloru.laws.rehearsal import SEED, Stage, rehearse
from fedloru.wire import (
    Ledger,
    MessageSpec,
    decode_down,
    decode_sync,
    decode_up,
    encode_down,
    encode_sync,
    encode_up,
)
from tests.laws.cases import METHODS, world


@pytest.mark.parametrize("method", METHODS)
def test_receivers_accept_what_senders_send(method: str, model: str) -> None:
    cell = world(method, model)
    net, made, run = cell.net, cell.method, tree.digest(cell.net.params)
    stage, names = Stage(made, net), {"method": made.name, "run": run}
    specs = {profile: MessageSpec(net, made, run, profile) for profile in stage.profiles}
    ledger = Ledger(net.sites, made.init(net, SEED))
    for done in rehearse(stage, rounds=4):
        before, held = done.before, {"round": done.before.round + 1, "version": done.before.version}
        for exchange in done.exchanges:
            spec = specs[exchange.profile]
            owed = ledger.owed(exchange.client, before)
            _, sync = decode_sync(encode_sync(owed, before, **names, codec="exact"), spec)
            ledger.delivered(exchange.client, sync.version)
            sent = made.down(net, before, exchange.profile)
            _, down = decode_down(encode_down(net, sent, before, **names, codec="fp32"), spec, **held)
            assert down.shared.keys() == sent.shared.keys()
            numbers = {"weight": 3.0, "loss": 0.5}
            replied = {"client": exchange.client, "codec": "bf16", "numbers": numbers}
            data = encode_up(net, exchange.up, down, **names, **held, **replied)
            _, up = decode_up(data, spec, down, **held, client=exchange.client)
            assert up.shared.keys() == exchange.up.shared.keys()
        ledger.record(done.after)

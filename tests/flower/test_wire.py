"""What a round costs: the bytes on the wire between a client and the TLS port."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flower.processes import Ground, Wire, ground

SITES, ROUNDS = 200, 6
TRIAL = f"""
rounds = {ROUNDS}
[data]
source = "digits"
[partition]
scheme = "iid"
clients = 2
[model]
name = "mlp"
hidden = {[48] * SITES}
[lowrank]
rank = 4
[method]
name = "fedloru"
tau = 2
[client]
steps = 1
[cohort]
size = 2
[eval]
every = {ROUNDS}
diagnostics = false
"""
WIRE, FIXED = 1.03, 20_000
"""How many bytes on the wire a byte of our messages may cost, and how many more a client and round may."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground(tmp_path_factory.mktemp("wire")) as made:
        yield made


def test_the_bytes_of_a_round(place: Ground) -> None:
    (place.folder / "trial.toml").write_text(TRIAL)
    place.enroll("berlin", "paris")
    server, wire = place.serve(), Wire(place.port)
    try:
        place.join("berlin", "--warm", part=0, server=f"localhost:{wire.port}")
        place.join("paris", "--warm", part=1)
        place.round(1)
        before, after = [], []
        for number in range(1, ROUNDS):  # the first round includes the terms of the federation
            place.round(number)
            before.append((wire.up, wire.down))
        place.round(ROUNDS)
        after.append((wire.up, wire.down))
        server.ends(0)
    finally:
        wire.close()
    rows = [row["federation"]["clients"]["berlin"] for row in place.rows()]
    for way, key in enumerate(("up_bytes", "down_bytes")):
        found, ours = after[-1][way] - before[0][way], sum(row[key] for row in rows[1:])
        assert ours > 200_000 * (ROUNDS - 1)
        extra = (found - WIRE * ours) / (ROUNDS - 1)
        print(f"{key}: {found:,} on the wire, {ours:,} ours; {extra:,.0f} per round beyond {WIRE}")
        assert extra <= FIXED, (key, found, ours)

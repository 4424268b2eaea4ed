"""What the receivers of tests expect, and messages that are as expected."""

from __future__ import annotations

from typing import Any

import torch
from wire_toy import random_factors, small_net, start, toy

from fedloru.method import Down, Up
from fedloru.wire import Header, MessageSpec, encode
from fedloru.wire.grid import increment_widths, pack
from fedloru.wire.sections import up_sections

NET = small_net()
STATE = start(NET, seed=5)
SPEC = MessageSpec(NET, toy(2), "ab12")
DOWN = Down(STATE.shared)
UP = Up(STATE.shared, {"moment": torch.ones(6)})
NUMBERS = {"weight": 5.0, "loss": 0.5}


def header(kind: str, round: int = 4, version: int = 1, **fields: Any) -> Header:
    return Header(kind, "toy", "ab12", round, version, **fields)


def reply(shared: Any = UP.shared, aux: Any = UP.aux, **fields: Any) -> bytes:
    fields = {"client": 3, "numbers": NUMBERS} | fields
    return encode(header("up", **fields), {"shared": shared, "aux": aux}, "exact")


CODED = up_sections(NET, UP, DOWN, 3, "int4")["shared"]
"""The shared tensors of a reply in codes: of 4 bits for the factors 0.a (2, 2, 3, 3), and of 8 for 4.weight (3, 10)."""
INCREMENT = random_factors(NET, 1, rank=1)
IN_CODES = pack(INCREMENT, increment_widths(INCREMENT, "int4"))

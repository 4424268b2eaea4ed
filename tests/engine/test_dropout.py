"""Dropout masks belong to a client: the same alone, in a chunk, and whoever else is in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import methods
from fedloru.dropout import ClientDropout, generators
from tests.engine.cohort import Cohort, built, fedavg, near, vectors

DROPS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "vectors": (F.dropout, (7,)),
    "sequences": (F.dropout, (3, 5)),
    "channels of lines": (F.dropout1d, (4, 6)),
    "channels of images": (F.dropout2d, (4, 3, 2)),
    "channels of boxes": (F.dropout3d, (4, 3, 2, 2)),
}


def alone(drop: Callable[..., Tensor], client: int, x: Tensor, times: int) -> Tensor:
    with ClientDropout(generators(1, 2, [client], "cpu")):
        return torch.stack([drop(x, 0.4) for _ in range(times)])


@pytest.mark.parametrize("name", DROPS)
def test_masks_in_a_chunk_are_those_of_each_client_alone(name: str) -> None:
    """Clients 5, 2 and 9 hold 4, 1 and 3 examples; rows of padding draw nothing."""
    drop, shape = DROPS[name]
    counts, width = {5: 4, 2: 1, 9: 3}, 4
    x = torch.ones(len(counts) * width, *shape)
    with ClientDropout(generators(1, 2, list(counts), "cpu"), list(counts.values()), width):
        together = torch.stack([drop(x, 0.4) for _ in range(3)]).unflatten(1, (3, width))
    for c, (client, count) in enumerate(counts.items()):
        expected = alone(drop, client, torch.ones(count, *shape), 3)
        assert torch.equal(together[:, c, :count], expected)
        assert not together[:, c, count:].any()
        assert set(expected.unique().tolist()) <= {0.0, 1 / 0.6, float(torch.tensor(1 / 0.6))}
    channels = alone(drop, 5, torch.ones(50, *shape), 1)[0]
    if "channels" in name:
        assert torch.equal(
            channels, channels.flatten(2)[:, :, :1].view(50, 4, *[1] * (len(shape) - 1)).expand_as(channels)
        )
    assert float((channels > 0).float().mean()) == pytest.approx(0.6, abs=0.12)


def test_tokens_folded_into_the_batch_belong_to_their_client() -> None:
    """Dropout on (m·b·T, d): every example has T rows."""
    x = torch.ones(2 * 3 * 5, 4)
    with ClientDropout(generators(1, 2, [0, 1], "cpu"), [3, 2], 3):
        together = F.dropout(x, 0.5).unflatten(0, (2, 3 * 5))
    assert torch.equal(together[1, :10], alone(lambda x, _: F.dropout(x, 0.5), 1, torch.ones(10, 4), 1)[0])


def test_steps_rounds_clients_and_seeds_differ() -> None:
    x = torch.ones(20, 20)
    with ClientDropout(generators(1, 2, [0], "cpu")):
        first, second = F.dropout(x), F.dropout(x)
    assert not torch.equal(first, second)
    others = []
    for path in ((1, 2, [0]), (1, 3, [0]), (1, 2, [1]), (2, 2, [0])):
        with ClientDropout(generators(*path, "cpu")):  # type: ignore[arg-type]
            others.append(F.dropout(x))
    assert torch.equal(others[0], first) and not any(torch.equal(first, other) for other in others[1:])


def test_masks_do_not_depend_on_the_global_generator() -> None:
    first = alone(F.dropout, 0, torch.ones(9, 9), 2)
    torch.rand(7)
    assert torch.equal(alone(F.dropout, 0, torch.ones(9, 9), 2), first)


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_the_global_generator_is_given_back(engine: str) -> None:
    before = torch.get_rng_state()
    fedavg(lambda: nn.Sequential(nn.Dropout(0.4), nn.Linear(6, 3)), vectors()).rounds(engine)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_call_from_the_same_place_of_the_global_generator_is_repeated() -> None:
    """As torch's checkpoints repeat it in the backward pass; what follows is as if nothing had been repeated."""
    x = torch.ones(3, 20)
    with ClientDropout(generators(1, 2, [4, 5, 6], "cpu")):
        place = torch.get_rng_state()
        first, second = F.dropout(x), F.dropout(x)
        after = torch.get_rng_state()
        torch.set_rng_state(place)
        again = F.dropout(x)
        torch.set_rng_state(after)
        third = F.dropout(x)
    assert torch.equal(again, first) and not torch.equal(again, second)
    with ClientDropout(generators(1, 2, [4, 5, 6], "cpu")):
        straight = [F.dropout(x) for _ in range(3)]
    assert torch.equal(torch.stack(straight), torch.stack([first, second, third]))


def test_rates_of_0_and_1_and_evaluation() -> None:
    x = torch.randn(4, 3)
    with ClientDropout(generators(1, 2, [0], "cpu")):
        assert torch.equal(F.dropout(x, 0.0), x) and torch.equal(F.dropout(x, 0.5, training=False), x)
        assert torch.equal(F.dropout(x, 1.0), torch.zeros(4, 3))
        assert torch.equal(nn.Dropout(0.9).eval()(x), x)


def test_gradients_pass_through_the_mask() -> None:
    x = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    with ClientDropout(generators(1, 2, [0], "cpu")):
        y = F.dropout(x, 0.5)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def make(drop: type[nn.Module], **settings: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), drop(0.4, **settings), nn.Flatten(), nn.Linear(8, 3)
    )


@pytest.mark.parametrize("drop", [make(nn.Dropout), make(nn.Dropout2d), make(nn.Dropout, inplace=True)])
def test_what_a_client_sends_does_not_depend_on_engine_or_chunk(drop: Callable[[], nn.Module]) -> None:
    cohort = fedavg(drop, vectors())
    oracle = cohort.ups("sequential")
    for chunk in (1, 2, 4):
        ups = cohort.ups("fused", chunk=chunk)
        assert all(near(ups[client].shared, oracle[client].shared) for client in range(4))


@pytest.mark.parametrize("path", ["activation", "weight"])
def test_dropout_of_the_rank_space(path: str) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(8, 3))

    net = built(model, rank=2, alpha=3.0, dropout=0.3)
    cohort = Cohort(net, methods.fedloru(tau=1), vectors())
    assert cohort.agree(path=path) and cohort.agree(path=path, chunk=2)
    assert not near(
        cohort.rounds("fused").shared, Cohort(built(model, rank=2, alpha=3.0), *cohort[1:]).rounds("fused").shared
    )

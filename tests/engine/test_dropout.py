"""Dropout masks depend only on the client: they are the same alone and in any chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import methods
from fedloru.dropout import ClientDropout, Masks, generators, train_with_masks
from tests.engine.cohort import Cohort, built, fedavg, near, vectors

DROPS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "vectors": (F.dropout, (7,)),
    "sequences": (F.dropout, (3, 5)),
    "channels of lines": (F.dropout1d, (4, 6)),
    "channels of images": (F.dropout2d, (4, 3, 2)),
    "channels of boxes": (F.dropout3d, (4, 3, 2, 2)),
}


def drop_alone(drop: Callable[..., Tensor], client: int, x: Tensor, times: int) -> Tensor:
    with ClientDropout(generators(1, 2, [client])):
        return torch.stack([drop(x, 0.4) for _ in range(times)])


@pytest.mark.parametrize("name", DROPS)
def test_masks_in_a_chunk_are_those_of_each_client_alone(name: str) -> None:
    """Clients 5, 2 and 9 have 4, 1 and 3 examples, padded to 4."""
    drop, shape = DROPS[name]
    counts, width = {5: 4, 2: 1, 9: 3}, 4
    x = torch.ones(len(counts) * width, *shape)
    with ClientDropout(generators(1, 2, list(counts))):
        together = torch.stack([drop(x, 0.4) for _ in range(3)]).unflatten(1, (3, width))
    for c, (client, count) in enumerate(counts.items()):
        expected = drop_alone(drop, client, torch.ones(count, *shape), 3)
        assert torch.equal(together[:, c, :count], expected)
        assert set(expected.unique().tolist()) <= {0.0, 1 / 0.6, float(torch.tensor(1 / 0.6))}
    channels = drop_alone(drop, 5, torch.ones(50, *shape), 1)[0]
    if "channels" in name:
        assert torch.equal(
            channels, channels.flatten(2)[:, :, :1].view(50, 4, *[1] * (len(shape) - 1)).expand_as(channels)
        )
    assert float((channels > 0).float().mean()) == pytest.approx(0.6, abs=0.12)


def test_tokens_folded_into_the_batch_have_the_masks_of_their_client() -> None:
    """Dropout on (m·b·T, d): every example has T rows."""
    x = torch.ones(2 * 3 * 5, 4)
    with ClientDropout(generators(1, 2, [0, 1])):
        together = F.dropout(x, 0.5).unflatten(0, (2, 3 * 5))
    assert torch.equal(together[1, :10], drop_alone(lambda x, _: F.dropout(x, 0.5), 1, torch.ones(10, 4), 1)[0])


@pytest.mark.parametrize("more", [(0, 3, 0, 0), (0, 0, 5, 5), (2, 1, 2, 3)])
def test_padding_changes_no_mask(more: tuple[int, ...]) -> None:
    """If an axis gets longer, such as T in scores (b, heads, T, T), the mask of the original part is the same."""
    shape = (2, 3, 4, 4)
    wider = torch.ones([size + pad for size, pad in zip(shape, more, strict=True)])
    first = drop_alone(F.dropout, 3, torch.ones(shape), 2)
    assert torch.equal(drop_alone(F.dropout, 3, wider, 2)[:, :2, :3, :4, :4], first)


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_masks_look_random(keep: float) -> None:
    """Over 32 · 64 · 64 positions, means and the correlation of neighbors, calls and clients are within 4.5 sigma."""
    x, trials, sigma = torch.ones(64, 64, 64), 64**3 / 2, (keep * (1 - keep)) ** 0.5
    with ClientDropout(generators(1, 2, [0, 1])):
        calls = [(F.dropout(x, 1 - keep) > 0).double().unflatten(0, (2, 32)) - keep for _ in range(2)]
    first, other, again = calls[0][0], calls[0][1], calls[1][0]
    assert all(float(bits.mean().abs()) < 4.5 * sigma / trials**0.5 for bits in (first, other, again))
    assert all(float(first.mean(axes).abs().max()) < 4.5 * sigma / (32 * 64) ** 0.5 for axes in ((0, 1), (0, 2)))
    shifted = [first.roll(lag, axis) for axis in range(3) for lag in (1, 2, 16)]
    for bits in (other, again, *shifted):
        assert abs(float((first * bits).mean())) < 4.5 * sigma**2 / trials**0.5


@pytest.mark.parametrize("masked", ["causal", "bool", "added", "none"])
def test_attention_uses_the_masks_of_the_client(masked: str) -> None:
    """Compare with the formula and the client's mask; two query heads share one key head."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, 4, 5, generator=g, dtype=torch.float64) for heads in (4, 2, 2))
    allowed = torch.ones(4, 4, dtype=torch.bool).tril()
    added = torch.zeros(4, 4, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    settings = {
        "causal": {"is_causal": True},
        "bool": {"attn_mask": allowed},
        "added": {"attn_mask": added},
        "none": {},
    }
    chosen: dict[str, Any] = settings[masked]
    with ClientDropout(generators(1, 2, [0])):
        got = F.scaled_dot_product_attention(q, k, v, dropout_p=0.4, enable_gqa=True, **chosen)
        kept = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **chosen)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    weights = (q @ k.mT / 5**0.5 + (0 if masked == "none" else added)).softmax(-1)
    mask = drop_alone(F.dropout, 0, torch.ones(3, 4, 4, 4, dtype=torch.float64), 1)[0]
    torch.testing.assert_close(got, weights * mask @ v)
    torch.testing.assert_close(kept, weights @ v)


def test_steps_rounds_clients_and_seeds_differ() -> None:
    x = torch.ones(20, 20)
    with ClientDropout(generators(1, 2, [0])):
        first, second = F.dropout(x), F.dropout(x)
    assert not torch.equal(first, second)
    others = []
    for path in ((1, 2, [0]), (1, 3, [0]), (1, 2, [1]), (2, 2, [0])):
        with ClientDropout(generators(*path)):  # type: ignore[arg-type]
            others.append(F.dropout(x))
    assert torch.equal(others[0], first) and not any(torch.equal(first, other) for other in others[1:])


def test_masks_do_not_depend_on_the_global_generator() -> None:
    first = drop_alone(F.dropout, 0, torch.ones(9, 9), 2)
    torch.rand(7)
    assert torch.equal(drop_alone(F.dropout, 0, torch.ones(9, 9), 2), first)


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_the_global_generator_is_restored(engine: str) -> None:
    before = torch.get_rng_state()
    fedavg(lambda: nn.Sequential(nn.Dropout(0.4), nn.Linear(6, 3)), vectors()).rounds(engine)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_call_at_the_same_state_of_the_global_generator_has_the_same_mask() -> None:
    """torch's checkpoints repeat calls in this way in the backward pass; later calls are not affected."""
    x = torch.ones(3, 20)
    with ClientDropout(generators(1, 2, [4, 5, 6])):
        start = torch.get_rng_state()
        first, second = F.dropout(x), F.dropout(x)
        after = torch.get_rng_state()
        torch.set_rng_state(start)
        again = F.dropout(x)
        torch.set_rng_state(after)
        third = F.dropout(x)
    assert torch.equal(again, first) and not torch.equal(again, second)
    with ClientDropout(generators(1, 2, [4, 5, 6])):
        unrepeated = [F.dropout(x) for _ in range(3)]
    assert torch.equal(torch.stack(unrepeated), torch.stack([first, second, third]))


def test_rates_of_0_and_1_and_evaluation() -> None:
    x = torch.randn(4, 3)
    with ClientDropout(generators(1, 2, [0])):
        assert torch.equal(F.dropout(x, 0.0), x) and torch.equal(F.dropout(x, 0.5, training=False), x)
        assert torch.equal(F.dropout(x, 1.0), torch.zeros(4, 3))
        assert torch.equal(nn.Dropout(0.9).eval()(x), x)


def test_gradients_pass_through_the_mask() -> None:
    x = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    with ClientDropout(generators(1, 2, [0])):
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
    reference = cohort.ups("sequential")
    for chunk in (1, 2, 4):
        ups = cohort.ups("fused", chunk=chunk)
        assert all(near(ups[client].shared, reference[client].shared) for client in range(4))


@pytest.mark.parametrize("path", ["activation", "weight"])
def test_dropout_of_the_rank_space(path: str) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(8, 3))

    net = built(model, rank=2, alpha=3.0, dropout=0.3)
    cohort = Cohort(net, methods.fedloru(recipe="paper", tau=1), vectors())
    assert cohort.agree(path=path) and cohort.agree(path=path, chunk=2)
    assert not near(
        cohort.rounds("fused").shared, Cohort(built(model, rank=2, alpha=3.0), *cohort[1:]).rounds("fused").shared
    )


class Flaky(nn.Module):
    """A layer that draws random numbers from the third forward pass in training on, which no probe would see."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return F.dropout(x, 0.5) if self.passes > 2 else x


def masked(model: nn.Module, train: Callable[[Masks], Tensor]) -> Tensor:
    return train_with_masks(model, torch.device("cpu"), train, seed=1, round=2, clients=[0])


def test_masks_are_drawn_unless_the_last_training_drew_no_random_numbers() -> None:
    layer = Flaky()
    tried: list[bool] = []

    def train(masks: Masks) -> Tensor:
        tried.append(masks.drawn)
        with masks.step(1):
            return layer(torch.ones(50))

    results = [masked(layer, train) for _ in range(4)]
    assert tried == [True, False, False, True, True]  # the third training was repeated
    assert torch.equal(results[2], drop_alone(lambda x, p: F.dropout(x, 0.5), 0, torch.ones(50), 1)[0])


def test_dropout_whose_draws_the_model_undoes_is_found() -> None:
    model, tried = nn.Linear(1, 1), []

    def train(masks: Masks) -> Tensor:
        tried.append(masks.drawn)
        with masks.step(1), torch.random.fork_rng([]):
            return F.dropout(torch.ones(50), 0.5, training=True)

    assert torch.equal(masked(model, train), masked(model, train))
    assert tried == [True, True]


def test_the_global_generators_are_restored_and_a_failure_is_reported() -> None:
    layer, tried = nn.Linear(2, 2), []
    before = torch.default_generator.get_state()
    masked(layer, lambda masks: torch.ones(1))

    def fail(masks: Masks, draw: bool) -> Tensor:
        tried.append(masks.drawn)
        raise ValueError(f"{float(torch.rand(())) if draw else ''}")

    for draw in (False, True):
        with pytest.raises(ValueError, match="^0" if draw else "^$"):
            masked(layer, lambda masks, draw=draw: fail(masks, draw))
    assert tried == [False, False, True]  # the one that drew a number was repeated
    assert torch.equal(torch.default_generator.get_state(), before)

"""Evaluation with merged weights, with channels last and in small batches, compared with the training forward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import net as nets
from fedloru import tree
from fedloru.data import Examples
from fedloru.evaluate import Score, evaluate, shared_model
from fedloru.footprint import CACHE, footprint
from fedloru.inference import Inference, computing, merged, prepare
from fedloru.lowrank.layers import LowRank
from fedloru.net import Net
from fedloru.personal import personal_model
from tests.laws.cases import METHODS, profiles, world


def score(net: Net, tensors: tree.Params, data: Examples) -> Score:
    """Return the score of the low-rank layers' own forward pass, on all examples at once."""
    with torch.no_grad(), nets.mode(net, False):
        logits = nets.forward(net, nets.unshared(net, tensors), data)
    right = (logits.argmax(1) == data["y"]).double().mean()
    return Score(pytest.approx(float(F.cross_entropy(logits, data["y"]))), float(right), len(logits))


def drawn(tensors: tree.Params, keys: frozenset[str]) -> tree.Params:
    g = torch.Generator().manual_seed(1)
    return {k: v + 0.3 * torch.randn(v.shape, generator=g).to(v) if k in keys else v for k, v in tensors.items()}


@pytest.mark.parametrize("model", ["mlp", "cnn-group", "cnn-batch", "transformer"])
@pytest.mark.parametrize("method", METHODS)
def test_the_merged_model_has_the_score_of_the_low_rank_layers(method: str, model: str) -> None:
    cell = world(method, model)
    state = cell.method.init(cell.net, 3)
    state = state._replace(shared=drawn(state.shared, frozenset(state.shared) - cell.net.statistics))
    for profile in {(), *profiles(cell.method)}:
        for tensors in (
            shared_model(cell.net, cell.method, state),
            personal_model(cell.net, cell.method, state, {}, profile),
        ):
            before = tree.clone(tensors)
            plain = merged(cell.net, tensors, cell.data, 10**6)
            assert not plain.keys() & cell.net.factors, "all sites are merged for many examples"
            expected = score(cell.net, tensors, cell.data)
            for found in (evaluate(cell.net, tensors, cell.data), evaluate(cell.net, plain, cell.data, 5)):
                assert found[:3] == expected[:3]
            assert tree.equal(tensors, before)


def linear(rank: int = 2) -> tuple[Net, tree.Params, Examples]:
    net = nets.attach(nn.Linear(30, 20), rank=rank, targets=["*"])
    data = {"x": torch.randn(40, 30), "y": torch.zeros(40, dtype=torch.int64)}
    return net, drawn(net.params, net.factors), data


def test_factors_are_merged_where_the_product_takes_fewer_operations() -> None:
    """W has 600 values; the second path takes 50 multiplications per rank and example."""
    net, tensors, data = linear()
    assert footprint(net, tensors, data).paths == {"weight": 50}
    assert net.factors <= merged(net, tensors, data, 11).keys()
    whole = merged(net, tensors, data, 12)
    site = net.sites[0]
    assert not whole.keys() & net.factors
    torch.testing.assert_close(whole["weight"], tensors["weight"] + site.scale * tensors["b"] @ tensors["a"])


def test_an_embedding_is_merged_for_more_examples_than_it_has_words() -> None:
    net = nets.attach(nn.Embedding(50, 8), rank=2, targets=["*"])
    tensors, data = drawn(net.params, net.factors), {"x": torch.zeros(9, 5, dtype=torch.int64)}
    assert [net.factors <= merged(net, tensors, data, n).keys() for n in (9, 10)] == [True, False]


def test_a_product_of_zeros_costs_nothing_for_any_number_of_examples() -> None:
    net, tensors, data = linear()
    whole = merged(net, tensors | {"b": torch.zeros_like(tensors["b"])}, data, 1)
    assert whole["weight"] is tensors["weight"] and not whole.keys() & net.factors


def test_a_narrow_weight_keeps_its_factors() -> None:
    net = nets.attach(nn.Linear(30, 20).bfloat16(), rank=2, targets=["*"])
    tensors, data = drawn(net.params, net.factors), {"x": torch.randn(40, 30).bfloat16()}
    assert net.factors <= merged(net, tensors, data, 10**6).keys()


def test_merged_weights_do_not_exceed_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    net, tensors, data = linear()
    monkeypatch.setattr("fedloru.inference.ROOM", 4 * 600 - 1)
    assert net.factors <= merged(net, tensors, data, 10**6).keys()


def test_layers_are_plain_only_inside_the_context_even_after_an_error() -> None:
    net, tensors, data = linear()
    with pytest.raises(RuntimeError, match="stop"), computing(Inference(net, merged(net, tensors, data, 99), 1, False)):
        assert type(net.model) is nn.Linear
        raise RuntimeError("stop")
    assert isinstance(net.model, LowRank) and net.model.training


def test_batches_fit_the_cache_or_the_weights_of_the_layer() -> None:
    """A layer of 1,000 × 1,000 moves 8 kB per example; one of 2,000 × 2,000 moves 16 kB, and has weights of 16 MB."""
    one = {"x": torch.zeros(3, 1000)}
    net = nets.make(nn.Sequential(nn.Linear(1000, 1000, bias=False), nn.Tanh()))
    assert prepare(net, net.params, one, torch.arange(3)).batch_size == CACHE // 8000
    wide = nets.make(nn.Linear(2000, 2000, bias=False))
    found = prepare(wide, wide.params, {"x": torch.zeros(3, 2000)}, torch.arange(3))
    assert found.batch_size == 4 * 2000**2 // 16000 == 1000


def test_a_model_is_measured_once_for_each_shape_of_examples() -> None:
    net, tensors, data = linear()
    sizes: list[int] = []
    net.model.register_forward_hook(lambda layer, inputs, output: sizes.append(len(output)))
    for _ in range(3):
        evaluate(net, tensors, data)
    assert sizes == [1, 1, 1, 40, 40, 40]  # measured, with factors and merged, then the three evaluations
    for _ in range(2):
        footprint(net, tensors, {"x": torch.zeros(2, 7, 30)})
    assert sizes[6:] == [1]


class Viewed(nn.Module):
    """A convolution whose output is viewed as a matrix, which is not possible with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.conv(x)
        return y.view(len(x), -1)


def test_models_that_need_the_channels_first_get_them() -> None:
    net = nets.make(Viewed())
    data = {"x": torch.randn(6, 2, 5, 5), "y": torch.arange(6)}
    first = evaluate(net, net.params, data)
    assert first[:3] == score(net, net.params, data)[:3]
    calls = net.model.calls
    assert evaluate(net, net.params, data) == first and net.model.calls == calls + 1, "they are not tried again"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="the processor has no faster convolution")
def test_images_have_their_channels_last_in_models_with_convolutions() -> None:
    net = nets.attach(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 3)), rank=1, targets=["0"])
    data, rows = {"x": torch.randn(6, 1, 5, 5), "y": torch.zeros(6, dtype=torch.int64)}, torch.arange(6)
    found = prepare(net, net.params, data, rows)
    batch = found.fetch(data, rows)
    assert found.channels_last and torch.equal(batch["x"], data["x"]) and batch["x"].stride() == (25, 1, 5, 1)
    assert not prepare(nets.make(nn.Linear(5, 3)), {}, {"x": torch.zeros(6, 5)}, rows).channels_last
    assert not nets.prefers_channels_last(nets.make(nn.Conv2d(1, 4, 3).double()), torch.device("cpu"))

"""Which layers are adapted, which stay dense and why, and detaching."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from fedloru import lowrank, tree
from fedloru.errors import ModelError
from fedloru.lowrank import LowRankConv2d, LowRankEmbedding, LowRankLinear


class Model(nn.Module):
    """Three types of layers, applied to ids and to images."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(7, 6, padding_idx=0)
        self.block = nn.ModuleDict({"conv1": nn.Conv2d(1, 4, 3, padding=1), "conv2": nn.Conv2d(4, 4, 3, stride=2)})
        self.norm = nn.GroupNorm(2, 4)
        self.fc1, self.fc2 = nn.Linear(4 * 4 + 6, 8), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        h = self.norm(self.block["conv2"](torch.tanh(self.block["conv1"](x)))).flatten(1)
        return self.fc2(torch.tanh(self.fc1(torch.cat([h, self.token(ids).mean(1)], 1))))


def inputs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(3, 1, 6, 6, generator=g, dtype=torch.float64), torch.randint(0, 7, (3, 4), generator=g)


def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model().double()


def fill_factors(module: nn.Module) -> nn.Module:
    """Set the factors to nonzero values."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for site in lowrank.sites(module):
            for key in site.keys:
                p = module.get_parameter(key)
                p.copy_(torch.randn(p.shape, generator=g))
    return module


def names(module: nn.Module) -> list[str]:
    return [site.weight.removesuffix(".weight") for site in lowrank.sites(module)]


def test_attaching_changes_nothing() -> None:
    before = model()
    digest, random, expected = tree.digest(before.state_dict()), torch.get_rng_state(), before(*inputs())
    attached = lowrank.attach(before, rank=2, alpha=7.0, targets=["*"])
    assert torch.equal(torch.get_rng_state(), random)
    assert tree.digest(before.state_dict()) == digest and not lowrank.sites(before)
    assert torch.equal(attached.model(*inputs()), expected) and torch.equal(before(*inputs()), expected)
    assert attached.skipped == {}
    with torch.no_grad():
        fill_factors(attached.model)
        for p in attached.model.parameters():
            p.add_(1.0)
    assert tree.digest(before.state_dict()) == digest


def test_layers_keep_their_names_and_sites_describe_them() -> None:
    new = lowrank.attach(model(), rank=2, targets=["*"]).model
    types = {name: type(layer) for name, layer in new.named_modules()}
    assert types["token"] is LowRankEmbedding and types["block.conv2"] is LowRankConv2d
    assert types["fc1"] is LowRankLinear and types["norm"] is nn.GroupNorm
    added = {key for site in lowrank.sites(new) for key in site.keys}
    assert new.state_dict().keys() - added == model().state_dict().keys()
    site = next(site for site in lowrank.sites(new) if site.weight == "block.conv2.weight")
    assert (site.a, site.b, site.o, site.i) == ("block.conv2.a", "block.conv2.b", 4, 36)
    assert site.a_shape() == (2, 4, 3, 3) and site.b_shape() == (4, 2, 1, 1) and site.values() == 2 * (4 + 36)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("*",), ["token", "block.conv1", "block.conv2", "fc1", "fc2"]),
        (("block.*",), ["block.conv1", "block.conv2"]),
        (("fc?", "token"), ["token", "fc1", "fc2"]),
        (("*[!1]", "no such"), ["token", "block.conv2", "fc2"]),
    ],
)
def test_globs_choose_layers(targets: tuple[str, ...], expected: list[str]) -> None:
    assert names(lowrank.attach(model(), rank=2, targets=targets).model) == expected


def test_the_last_pattern_that_matches_wins() -> None:
    new = lowrank.attach(
        model(),
        rank=2,
        alpha=6.0,
        targets=("block.*", "fc*"),
        ranks={"*": 1, "block.*": 3, "block.conv2": 4},
        alphas={"block.conv2": 9.0, "*2": 2.0},
    ).model
    found = {site.weight: (site.rank, site.scale) for site in lowrank.sites(new)}
    assert found == {
        "block.conv1.weight": (3, 6.0 / 3),
        "block.conv2.weight": (4, 2.0 / 4),
        "fc1.weight": (1, 6.0),
        "fc2.weight": (1, 2.0),
    }


def test_all_ranks_out_of_range_are_listed_with_their_limits() -> None:
    with pytest.raises(ModelError) as refused:
        lowrank.attach(model(), rank=5, ranks={"block.conv1": 4, "block.conv2": 5, "fc1": 0, "fc2": 5})
    message = str(refused.value)
    for problem in ("block.conv2.weight: got rank 5", "4 × 36 has rank 1 to 4", "fc2.weight: got rank 5", "3 × 8 has"):
        assert problem in message
    assert "fc1.weight: got rank 0" in message and "8 × 22 has rank 1 to 8" in message
    assert "conv1" not in message and "token" not in message


def test_the_error_without_sites_lists_adaptable_layers() -> None:
    with pytest.raises(ModelError, match=r"'conv\*'.*token, block\.conv1, block\.conv2, fc1, fc2"):
        lowrank.attach(model(), targets=("conv*",))
    with pytest.raises(ModelError, match="no Linear, Conv2d or Embedding"):
        lowrank.attach(nn.Sequential(nn.Flatten(), nn.LayerNorm(4)))
    with pytest.raises(ModelError, match="with 2 groups"):
        lowrank.attach(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), rank=1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.head, self.free = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False), nn.Linear(4, 4)
        self.head.weight = self.token.weight


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


STAY_DENSE: dict[str, tuple[nn.Module, str, str]] = {
    "grouped": (nn.Conv2d(4, 4, 3, groups=2), "odd", "groups"),
    "max_norm": (nn.Embedding(5, 4, max_norm=1.0), "odd", "max_norm"),
    "sparse": (nn.Embedding(5, 4, sparse=True), "odd", "sparse"),
    "scaled by frequency": (nn.Embedding(5, 4, scale_grad_by_freq=True), "odd", "scaled"),
    "tied": (Tied(), "odd.token", "odd.token.weight = odd.head.weight"),
    "shared module": (nn.ModuleList([shared := nn.Linear(4, 4), shared]), "odd.0", "tied"),
    "subclass": (Scaled(4, 4), "odd", "Scaled"),
    "parametrized": (weight_norm(nn.Linear(4, 4)), "odd", "ParametrizedLinear"),
    "read directly": (nn.MultiheadAttention(4, 2), "odd.out_proj", "NonDynamicallyQuantizableLinear"),
}


@pytest.mark.parametrize("case", STAY_DENSE)
def test_unsupported_layers_stay_dense_and_are_reported(case: str) -> None:
    odd, name, reason = STAY_DENSE[case]
    attached = lowrank.attach(nn.ModuleDict({"odd": odd, "fc": nn.Linear(4, 4)}), rank=1, targets=["*"])
    assert reason in attached.skipped[name]
    assert name not in names(attached.model) and "fc" in names(attached.model)
    assert type(attached.model.get_submodule(name)) is type(nn.ModuleDict({"odd": odd}).get_submodule(name))


def test_encoder_layers_compute_with_their_factors_in_inference_too() -> None:
    """torch's fast path reads the weights of encoder layers directly, and would not call the low-rank layers."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)
    new = fill_factors(lowrank.attach(encoder.double(), rank=2, targets=["*"]).model).eval()
    x = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pad = torch.arange(5) >= torch.tensor([5, 3, 4])[:, None]
    expected = lowrank.detach(new)(
        x, src_key_padding_mask=pad
    )  # with gradients enabled, torch does not take its fast path
    with torch.no_grad():
        got = new(x, src_key_padding_mask=pad)
    assert torch.allclose(got[~pad], expected[~pad], rtol=0, atol=1e-10)


def test_a_model_that_is_one_layer() -> None:
    layer = nn.Linear(5, 3).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    new = fill_factors(lowrank.attach(layer, rank=2, alpha=3.0).model)
    assert isinstance(new, LowRankLinear) and type(layer) is nn.Linear
    (site,) = lowrank.sites(new)
    assert (site.weight, site.a, site.b) == ("weight", "a", "b")
    plain = lowrank.detach(new)
    assert type(plain) is nn.Linear and torch.allclose(plain(x), new(x), rtol=0, atol=1e-12)
    with pytest.raises(ModelError, match=r"the model: got rank 4"):
        lowrank.attach(layer, rank=4)


def test_detach_gives_plain_layers_with_the_same_outputs() -> None:
    new = fill_factors(lowrank.attach(model(), rank=2, alpha=5.0, targets=("token", "block.*", "fc1")).model).eval()
    digest = tree.digest(new.state_dict())
    plain = lowrank.detach(new)
    assert torch.allclose(plain(*inputs()), new(*inputs()), rtol=0, atol=1e-12)
    assert plain.state_dict().keys() == model().state_dict().keys()
    assert [type(layer) for layer in plain.modules()] == [type(layer) for layer in model().modules()]
    assert tree.digest(new.state_dict()) == digest and not plain.training
    assert all(p.requires_grad for p in plain.parameters())
    settings: dict[str, Any] = {"stride": (2, 2), "padding": (0, 0), "padding_mode": "zeros"}
    assert all(getattr(plain.block["conv2"], key) == value for key, value in settings.items())
    assert plain.token.padding_idx == 0


def test_layers_keep_training_mode_and_frozen_biases() -> None:
    before = OrderedDict(fc1=nn.Linear(4, 4), fc2=nn.Linear(4, 4))
    before["fc1"].bias.requires_grad_(False)
    before["fc2"].eval()
    new = lowrank.attach(nn.Sequential(before), rank=1).model
    assert not new.fc1.bias.requires_grad and new.fc2.bias.requires_grad
    assert new.fc1.training and not new.fc2.training


def test_a_second_attach_adapts_the_remaining_layers() -> None:
    first = lowrank.attach(model(), rank=2, targets=("fc1",)).model
    second = lowrank.attach(first, rank=3, targets=("fc*",)).model
    assert {site.weight: site.rank for site in lowrank.sites(second)} == {"fc1.weight": 2, "fc2.weight": 3}

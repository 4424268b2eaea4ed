"""Weights that are read outside of their layers: they are found, and left dense or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import data, run
from fedloru import net as nets
from fedloru.errors import FedloruError, ModelError
from fedloru.methods import fedavg, fedloru
from fedloru.weight_reads import leave_out, other_readers


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mid, self.head = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def hidden(self, x: Tensor) -> Tensor:
        return self.mid(self.enc(x.flatten(1)).relu()).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


class Transposed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x) + F.linear(self.hidden(x), self.mid.weight.t()))


class Functional(Plain):
    def hidden(self, x: Tensor) -> Tensor:
        return F.linear(self.enc(x.flatten(1)), self.mid.weight, self.mid.bias)


class Regularised(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-6 * self.mid.weight.norm()


class OnlyInTraining(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * self.mid.weight.std() if self.training else y


class Codebook(Plain):
    """Reads a weight through an argmin, which hides values that are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Embedding(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.code(torch.cdist(self.hidden(x), self.code.weight).argmin(1)))


class Listed(Plain):
    """Holds a weight in a list, where a run does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [self.mid.weight]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(self.enc(x.flatten(1)), self.weights[0]))


class Hooked(Plain):
    """Has a hook that refers to the model it was made for, also in a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.head.register_forward_hook(lambda layer, args, y: y + self.mid(args[0])[:, :4])


class Harmless(Plain):
    """Reads the dtype and the shape of a weight, calls a layer twice and through a list, and drops and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.drop, self.norm = [self.mid, self.mid], nn.Dropout(0.3), nn.BatchNorm1d(6)
        self.teacher = [copy.deepcopy(self.mid).requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        h = self.enc(x.to(self.enc.weight.dtype).reshape(-1, self.enc.weight.shape[1]))
        for layer in self.layers:
            h = self.drop(layer(self.norm(h)).relu() + self.teacher[0](h.float()).to(h.dtype))
        return self.head(h + torch.rand(()))


def examples() -> data.Examples:
    g = torch.Generator().manual_seed(0)
    return {"x": torch.randn(40, 12, generator=g), "y": torch.randint(4, (40,), generator=g)}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


SECOND_READERS = {
    Transposed: "mid",
    Functional: "mid",
    Regularised: "mid",
    OnlyInTraining: "mid",
    Codebook: "code",
    Listed: "mid",
    Hooked: "mid",
}


@pytest.mark.parametrize(("make", "layer"), SECOND_READERS.items())
def test_a_second_reader_is_found_and_its_layer_is_left_dense(make: Any, layer: str) -> None:
    net = nets.attach(seeded(make), rank=2, targets=["*"])
    assert f"{layer}.weight" in other_readers(net, examples())
    smaller = leave_out(net, examples(), lambda layers: nets.attach(seeded(make), rank=2, targets=layers))
    assert {site.weight for site in net.sites} - {site.weight for site in smaller.sites} == {f"{layer}.weight"}
    assert "outside of the layer" in smaller.skipped[layer] and f"{layer}.weight" in smaller.trainable


@pytest.mark.parametrize("make", [Plain, Harmless])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_models_are_not_suspected(make: Any, dtype: torch.dtype) -> None:
    net = nets.attach(seeded(make).to(dtype), rank=2, targets=["*"])
    before, random = copy.deepcopy(net.model.state_dict()), torch.get_rng_state()
    values = examples() | {"x": examples()["x"].to(dtype)}
    assert other_readers(net, values) == set() == other_readers(nets.make(seeded(make).to(dtype)), values)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in net.model.state_dict().items())


def train(net: nets.Net, method: Any, **settings: Any) -> Any:
    dataset = data.Dataset("made", examples(), examples(), ("a", "b", "c", "d"))
    made = run(net, method, dataset, data.iid(dataset, clients=4), rounds=3, cohort=2, **settings)
    return made, list(made)


def test_a_run_with_a_second_reader_is_refused() -> None:
    with pytest.raises(ModelError, match=r"mid cannot be adapted: .*such as targets=\['enc', 'head'\]"):
        train(nets.attach(seeded(Transposed), rank=2, targets=["*"]), fedloru(tau=2))
    with pytest.raises(ModelError, match=r"reads mid.weight through a reference that is not registered"):
        train(nets.make(seeded(Listed)), fedavg())


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore")
def test_a_layer_with_a_computed_weight_stays_dense_and_trains(wrap: Any) -> None:
    model = seeded(Plain)
    model.mid = wrap(model.mid)
    net = nets.attach(model, rank=2)
    assert "mid" in net.skipped
    made, rows = train(net, fedloru(tau=2))
    x, y = examples()["x"], examples()["y"]
    assert F.cross_entropy(made.model().eval()(x), y).item() == pytest.approx(rows[-1]["test_loss"], abs=1e-5)


def test_hooks_of_adapted_layers_are_kept() -> None:
    model = seeded(Plain)
    model.mid.register_forward_hook(lambda layer, args, y: 2 * y)
    x = examples()["x"]
    assert torch.equal(nets.attach(model, rank=2).model(x), model(x))


class Lazy(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.LazyLinear(6)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Plain()


@pytest.mark.parametrize(
    ("make", "problem"),
    [(Lazy, "mid.weight, mid.bias have no shape yet"), (on_meta, "meta device"), (lambda: Plain, "is the class Plain")],
)
def test_models_without_values_are_refused(make: Any, problem: str) -> None:
    for net in (nets.make, nets.attach):
        with pytest.raises(ModelError, match=problem):
            net(make())


def test_plain_modules_and_loaders_are_refused_with_advice() -> None:
    dataset = data.Dataset("made", examples(), examples(), ("a", "b", "c", "d"))
    parts, net = data.iid(dataset, clients=4), nets.make(seeded(Plain))
    loader: Any = torch.utils.data.TensorDataset(examples()["x"])
    with pytest.raises(FedloruError, match=r"net is a Plain, expected a Net: fedloru.attach"):
        run(seeded(Plain), fedavg(), dataset, parts)  # type: ignore[arg-type]
    with pytest.raises(FedloruError, match=r"the data is a TensorDataset, expected a fedloru\.data\.Dataset"):
        run(net, fedavg(), loader, parts)
    with pytest.raises(FedloruError, match="the data is a TensorDataset"):
        data.iid(loader, clients=2)
    with pytest.raises(FedloruError, match="'x' of the train examples is a list, expected a tensor"):
        run(net, fedavg(), dataset._replace(train={"x": [1]}), parts)  # type: ignore[dict-item]

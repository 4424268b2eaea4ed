"""Models as data: the tensors of a ``Net``, and computing with them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import net as nets
from fedloru import tree
from fedloru.errors import ModelError
from fedloru.net import Batch, forward, losses, mode


class Model(nn.Module):
    """Has persistent and non-persistent buffers, and a second argument."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.register_buffer("shift", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor, *, times: Tensor | None = None) -> Tensor:
        y = self.fc2(torch.tanh(self.norm(self.fc1(x)))) + self.shift
        return y if times is None else y * times


def model() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model()


def batch(n: int = 5) -> Batch:
    g = torch.Generator().manual_seed(1)
    return {"x": torch.randn(n, 4, generator=g), "y": torch.randint(0, 3, (n,), generator=g)}


def test_tensors_are_selected_by_name() -> None:
    net = nets.attach(model(), rank=2, targets=("fc1",), dense=("fc2.*", "norm.weight"))
    assert net.factors == {"fc1.a", "fc1.b"}
    assert net.trainable == {"fc1.a", "fc1.b", "fc2.weight", "fc2.bias", "norm.weight"}
    assert net.params.keys() == dict(net.model.named_parameters()).keys()
    assert net.statistics == {"norm.running_mean", "norm.running_var"}
    assert net.buffers.keys() == net.statistics | {"norm.num_batches_tracked"}


def test_frozen_parameters_stay_frozen() -> None:
    module = model()
    module.fc2.bias.requires_grad_(False)
    net = nets.make(module)
    assert net.trainable == net.params.keys() - {"fc2.bias"} and not net.sites


def test_the_tensors_are_copies() -> None:
    module = model()
    net = nets.make(module)
    before = tree.digest(module.state_dict())
    for value in (net.params | net.buffers).values():
        value.zero_()
    assert tree.digest(module.state_dict()) == before


def test_forward_computes_with_the_given_tensors_and_changes_no_others() -> None:
    net = nets.make(model())
    before = tree.digest(net.model.state_dict())
    twice = tree.map(lambda t: t * 2 if t.is_floating_point() else t, net.params | net.buffers)
    expected = copy.deepcopy(net.model)
    expected.load_state_dict(twice)
    with mode(net, True):
        got = forward(net, twice, batch())
    assert torch.equal(got, expected(batch()["x"]))
    assert tree.digest(net.model.state_dict()) == before
    assert tree.equal(twice, dict(expected.state_dict()))  # statistics are updated in the given tensors


class Tied(nn.Module):
    """Has one weight with two names, in a layer that also has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.second


def test_tied_weights_stay_tied_inside_and_after_the_context() -> None:
    module = Tied()
    own, net = module.first.weight, nets.make(module)
    tensors = tree.map(lambda t: t + 1, net.params)
    with nets.use_tensors(net, tensors):
        current = module.first.weight
        assert current is module.second.weight is module.again.weight is tensors["first.weight"]
        assert module.second.bias is tensors["second.bias"]
    assert module.first.weight is module.second.weight is module.again.weight is own


def test_tensors_are_restored_after_an_error() -> None:
    net = nets.make(model())
    before = [*net.model.parameters(), *net.model.buffers()]
    with pytest.raises(KeyError), nets.use_tensors(net, net.params | net.buffers):
        net.model.shift = torch.ones(())
        net.model.fc1.register_buffer("late", torch.ones(2))
        raise KeyError
    after = [*net.model.parameters(), *net.model.buffers()]
    assert len(before) == len(after) and all(x is y for x, y in zip(before, after, strict=True))


def test_replaced_buffers_are_returned() -> None:
    net = nets.make(model())
    tensors = net.params | net.buffers | {"shift": torch.tensor(5.0)}
    moved = torch.tensor(7.0)
    with nets.use_tensors(net, tensors):
        assert float(net.model.shift) == 5
        net.model.shift = moved
    assert tensors["shift"] is moved and float(net.model.shift) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(ModelError, match="compiled with TorchScript"):
        nets.make(torch.jit.script(nn.Sequential(nn.Linear(4, 3))))


def test_inputs_name_the_arguments() -> None:
    net = nets.make(model(), inputs=lambda batch: {"": batch["x"], "times": batch["y"][:, None]})
    plain = nets.make(model())
    tensors = net.params | net.buffers
    with mode(net, False), mode(plain, False):
        got, once = forward(net, tensors, batch()), forward(plain, tensors, batch())
    assert torch.equal(got, once * batch()["y"][:, None])


def test_losses_are_one_value_per_example() -> None:
    net = nets.make(model())
    tensors = net.params | net.buffers
    with mode(net, False):
        each = losses(net, tensors, batch())
        logits = forward(net, tensors, batch())
    assert torch.equal(each, -F.log_softmax(logits, 1)[torch.arange(5), batch()["y"]])
    mean = net._replace(losses=lambda outputs, batch: F.cross_entropy(outputs, batch["y"]))
    with pytest.raises(ModelError, match=r"shape \(\).*one loss per example"):
        losses(mean, tensors, batch())


def test_a_batch_that_the_model_rejects_is_a_clear_error() -> None:
    net = nets.make(model())
    with mode(net, True), pytest.raises(ModelError, match="more than 1 value per channel"):
        losses(net, net.params | net.buffers, batch(1))


def test_mode_is_restored_for_every_module() -> None:
    net = nets.make(model())
    net.model.norm.eval()
    before = [module.training for module in net.model.modules()]
    with mode(net, True):
        assert all(module.training for module in net.model.modules())
    assert [module.training for module in net.model.modules()] == before
    with pytest.raises(KeyError), mode(net, False):
        assert not any(module.training for module in net.model.modules())
        raise KeyError
    assert [module.training for module in net.model.modules()] == before


def test_load_merges_factors_into_a_plain_model() -> None:
    net = nets.attach(model(), rank=2, alpha=3.0, targets=("fc1",))
    g = torch.Generator().manual_seed(2)
    tensors = {k: v + torch.rand(v.shape, generator=g) if v.is_floating_point() else v for k, v in net.params.items()}
    tensors |= {key: value + 1 for key, value in net.buffers.items()}
    before = tree.digest(net.model.state_dict())
    plain = nets.load(net, tensors).eval()
    assert type(plain.fc1) is nn.Linear and tree.digest(net.model.state_dict()) == before
    merged = tensors["fc1.weight"] + 1.5 * tensors["fc1.b"] @ tensors["fc1.a"]
    torch.testing.assert_close(plain.fc1.weight.detach(), merged)
    assert torch.equal(plain.norm.running_var, tensors["norm.running_var"])
    with mode(net, False):
        torch.testing.assert_close(plain(batch()["x"]), forward(net, tensors, batch()))

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from fedloru.errors import ModelError
from fedloru.models import MODELS, build, cnn, mlp, resnet

SMALL = {"mlp": {}, "cnn": {"width": 4}, "resnet8": {"width": 4}, "resnet10": {"width": 4}, "resnet18": {"width": 4}}


def test_every_model_has_a_small_case() -> None:
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 8)])
def test_models_map_images_to_logits(name: str, channels: int, size: int) -> None:
    model = build(name, channels=channels, size=size, classes=7, seed=0, **SMALL[name])
    assert model(torch.randn(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build(name, channels=1, size=8, classes=3, seed=seed, **SMALL[name])
        return nn.utils.parameters_to_vector(model.parameters())

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(weights(1), first) and not torch.equal(weights(2), first)


def test_the_cnn_has_the_size_the_paper_names() -> None:
    assert sum(p.numel() for p in cnn(1, 10).parameters()) == 1_663_370
    assert list(dict(cnn(1, 10, norm="group").named_children())) == (
        ["conv1", "norm1", "pool1", "relu1", "conv2", "norm2", "pool2", "relu2", "flatten", "fc1", "relu3", "fc2"]
    )


def test_the_mlp_flattens_and_takes_vectors() -> None:
    model = build("mlp", channels=13, size=1, classes=2, seed=0, hidden=(5, 4))
    assert [tuple(p.shape) for n, p in model.named_parameters() if n.endswith("weight")] == [(5, 13), (4, 5), (2, 4)]
    assert model(torch.randn(6, 13)).shape == (6, 2)
    assert list(mlp(4, 2, hidden=()).state_dict()) == ["fc1.weight", "fc1.bias"]


@pytest.mark.parametrize(("depth", "convolutions"), [(8, 7), (10, 9), (18, 17)])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_resnets_have_their_depth_and_names(depth: int, convolutions: int, norm: str) -> None:
    model = resnet(depth, 3, 10, width=8, norm=norm)
    names = dict(model.named_modules())
    three = [m for m in names.values() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(three) == convolutions
    for name in ("conv1", "norm1", "layer1.0.conv1", "layer2.0.shortcut.0", "layer2.0.shortcut.1", "fc"):
        assert name in names
    assert not any(p.startswith("layer1.0.shortcut") for p in model.state_dict())


def test_resnet18_has_the_known_number_of_parameters() -> None:
    assert sum(p.numel() for p in resnet(18, 3, 10, norm="batch").parameters()) == 11_173_962


@pytest.mark.parametrize(("width", "groups"), [(64, 4), (16, 1), (24, 3), (6, 3), (7, 7)])
def test_groups_divide_the_channels(width: int, groups: int) -> None:
    model = resnet(8, 1, 2, width=width)
    assert isinstance(model.norm1, nn.GroupNorm) and model.norm1.num_groups == groups


SHAPE = {"channels": 1, "size": 8, "classes": 2, "seed": 0}

OWN = """
from torch import nn

number = lambda: 3

def net(classes, channels, hidden, deep=False):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, hidden), nn.Linear(hidden, classes))

def free(**settings):
    return nn.Linear(settings["width"], 1)
"""


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_models.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_models", None)


def test_own_functions_get_settings_and_the_shapes_they_name(own_models: None) -> None:
    assert build("python:own_models:net", **SHAPE, hidden=3)(torch.zeros(4, 1, 8, 8)).shape == (4, 2)
    first, second = (build("python:own_models:free", **SHAPE, width=5).weight for _ in range(2))
    assert torch.equal(first, second) and first.shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet", {}, "did you mean 'resnet[81]"),
        ("cnn", {"widht": 3}, "did you mean 'width'"),
        ("cnn", {"norm": "layer"}, "'group' or 'batch'"),
        ("mlp", {"in_features": 3}, r"no setting 'in_features'\. There is: hidden"),
        ("resnet8", {"depth": 9}, "no setting 'depth'"),
        ("python:", {}, "does not name a function"),
        ("python:torch", {}, "does not name a function"),
        ("python:no_such_module:net", {}, "cannot be imported"),
        ("python:own_models:nothing", {}, "no function nothing"),
        ("python:own_models:number", {}, "returned int"),
        ("python:own_models:net", {"hiden": 3}, "did you mean 'hidden'"),
        ("python:own_models:net", {}, "needs the setting 'hidden'"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, settings: dict[str, object], message: str, own_models: None) -> None:
    with pytest.raises(ModelError, match=message):
        build(name, **SHAPE, **settings)  # type: ignore[arg-type]


def test_sizes_and_depths_out_of_range_are_refused() -> None:
    with pytest.raises(ModelError, match="at least 4×4 pixels"):
        cnn(1, 10, size=3)
    with pytest.raises(ModelError, match="one of 8, 10, 18, got 50"):
        resnet(50, 3, 10)

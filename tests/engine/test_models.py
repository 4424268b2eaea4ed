"""Models that users may bring: some fold, some are vmapped, some are rejected, and none is silently wrong."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.data import Examples
from fedloru.engine import Chosen, choose
from fedloru.errors import ModelError, TrainingError
from fedloru.evaluate import evaluate, shared_model
from fedloru.net import Batch
from fedloru.recipe import Recipe
from tests.engine.cohort import RECIPE, Cohort, built, fedavg, jobs, near, sequences, train_plain, vectors
from tests.engine.odd import (
    Again,
    Attention,
    Centre,
    Clamped,
    Counting,
    Functional,
    Noisy,
    Recurrent,
    Renormed,
    Scale,
    Stretched,
    Sum,
    Temperature,
    Tied,
    Whole,
    ids,
)

SUPPORTED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Examples], str]] = {
    "a custom layer": (lambda: nn.Sequential(Scale(6), nn.Linear(6, 3)), vectors, "fold"),
    "a single number": (lambda: nn.Sequential(nn.Linear(6, 3), Temperature()), vectors, "fold"),
    "one gradient for two": (lambda: nn.Sequential(nn.Linear(6, 6), Sum()), vectors, "fold"),
    "an expanded gradient": (lambda: nn.Sequential(nn.Linear(6, 3), Stretched()), vectors, "fold"),
    "parameters of the model itself": (Whole, vectors, "fold"),
    "a layer called twice": (Again, vectors, "fold"),
    "functional dropout": (Functional, vectors, "fold"),
    "all dropped": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout(1.0), nn.Linear(4, 3)), vectors, "fold"),
    "a padding token": (lambda: Renormed(padding_idx=2), ids, "fold"),
    "a norm over two axes": (
        lambda: nn.Sequential(nn.LayerNorm((5, 8)), nn.Flatten(), nn.Linear(40, 3)),
        sequences,
        "fold",
    ),
    "a norm of groups": (lambda: nn.Sequential(nn.Linear(6, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3)), vectors, "fold"),
    "a tied weight": (Tied, vectors, "fold"),
    "a renormed embedding": (lambda: Renormed(max_norm=0.3), ids, "vmap"),
    "attention with a mask": (Attention, sequences, "vmap"),
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Examples], str]] = {
    "mean over the batch": (lambda: nn.Sequential(Centre(), nn.Linear(6, 3)), vectors, "mixes the examples"),
    "custom statistics": (Counting, vectors, "statistics mean"),
    "global randomness": (Noisy, vectors, "losses of two clients differ"),
    "dropout inside attention": (lambda: Attention(0.3), sequences, "does not support"),
    "recurrent": (Recurrent, sequences, "lstm"),
    "scaled gradients": (lambda: Renormed(scale_grad_by_freq=True), ids, "scale_grad_by_freq"),
    "BatchNorm that counts": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3)),
        vectors,
        "momentum=None",
    ),
}

slow_vmap = pytest.mark.filterwarnings("ignore:There is a performance drop")


@slow_vmap
@pytest.mark.parametrize("name", SUPPORTED)
def test_models_that_fuse_equal_the_sequential_engine(name: str) -> None:
    make, data, how = SUPPORTED[name]
    cohort = fedavg(make, data())
    chosen = choose("fused", *cohort[:2], cohort.method.init(cohort.net, 3), cohort.data, cohort.recipe)
    assert f"by {how}" in chosen.reason
    assert cohort.agree() and cohort.agree(chunk=1) and cohort.agree(chunk=3)


@slow_vmap
@pytest.mark.parametrize("name", REFUSED)
def test_models_that_do_not_fuse_are_rejected_with_a_reason(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, data, reason = REFUSED[name]
    recipe = RECIPE._replace(batch_size=3) if "BatchNorm" in name else RECIPE
    cohort = fedavg(make, data(), recipe)
    state = cohort.method.init(cohort.net, 3)
    with pytest.raises(ModelError, match="cannot run this model") as refused:
        choose("fused", cohort.net, cohort.method, state, cohort.data, cohort.recipe)
    assert reason in str(refused.value) and "'sequential'" in str(refused.value)
    assert not caplog.records
    with caplog.at_level(logging.INFO, "fedloru"):
        chosen = choose("auto", cohort.net, cohort.method, state, cohort.data, cohort.recipe)
    assert chosen.name == "sequential" and reason in chosen.reason
    assert [record.getMessage().count("one after another") for record in caplog.records] == [1]


@pytest.mark.parametrize("values", [0, 32 * 2**20])
def test_a_large_model_is_probed_without_a_wider_copy(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models above ``LARGE`` base values are probed in float32, and mixing of examples is still detected."""
    monkeypatch.setattr(sys.modules["fedloru.engine.fused.probe"], "LARGE", values)
    dtypes: set[torch.dtype] = set()

    def made(*layers: nn.Module) -> Cohort:
        model = nn.Sequential(*layers, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).float()
        model[-2].register_forward_hook(lambda layer, inputs, output: dtypes.add(output.dtype))
        net = nets.attach(model, rank=2, targets=["*"], dense=[])
        return Cohort(net, methods.fedlora(), tree.map(lambda t: t.float() if t.is_floating_point() else t, vectors()))

    def chosen(cohort: Cohort) -> Chosen:
        state = cohort.method.init(cohort.net, 3)
        return choose("auto", cohort.net, cohort.method, state, cohort.data, RECIPE, chunk=2)

    assert chosen(made()).name == "fused" and "mixes the examples" in chosen(made(Centre())).reason
    assert dtypes == {torch.float64 if values else torch.float32}


def test_a_loss_that_mixes_examples_is_refused() -> None:
    def relative(outputs: Tensor, batch: Batch) -> Tensor:
        each = F.cross_entropy(outputs, batch["y"], reduction="none")
        return each - 0.5 * each.mean()

    cohort = fedavg(lambda: nn.Linear(6, 3), vectors())
    mixing = cohort._replace(net=cohort.net._replace(losses=relative))
    with pytest.raises(ModelError, match="mixes the examples"):
        mixing.rounds("fused")
    assert mixing.rounds("auto").round == 2


def test_auto_logs_nothing_if_the_model_folds(caplog: pytest.LogCaptureFixture) -> None:
    cohort = fedavg(Whole, vectors())
    with caplog.at_level(logging.INFO, "fedloru"):
        chosen = choose("auto", cohort.net, cohort.method, cohort.method.init(cohort.net, 3), *cohort[2:])
    assert chosen.name == "fused" and not caplog.records


@pytest.mark.parametrize("path", ["activation", "weight"])
def test_low_rank_layers_with_a_custom_layer(path: str) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), Scale(6), nn.Tanh(), nn.Linear(6, 3))

    net = built(make, rank=2, alpha=3.0, dense=("1.*", "*.bias"))
    assert Cohort(net, methods.fedloru(recipe="paper", tau=1), vectors()).agree(path=path)


@pytest.mark.parametrize("padding", [None, 2])
def test_low_rank_embeddings_with_padding(padding: int | None) -> None:
    net = built(lambda: Renormed(padding_idx=padding), rank=2, alpha=3.0)
    cohort = Cohort(net, methods.fedloru(recipe="paper", tau=1, init="both"), ids())
    assert bool((cohort.data["x"][:6] == 2).any())
    chosen = choose("fused", net, cohort.method, cohort.method.init(net, 3), *cohort[2:])
    assert chosen.reason.endswith("by fold")
    assert cohort.agree() and cohort.agree(path="weight")


def frozen(model: nn.Module, name: str) -> nn.Module:
    model.get_parameter(name).requires_grad_(False)
    return model


def test_each_client_renorms_its_copy_of_a_frozen_embedding() -> None:
    cohort = fedavg(lambda: frozen(Renormed(max_norm=0.01), "token.weight"), ids())
    state = cohort.method.init(cohort.net, 3)
    before = tree.clone(state.base | state.shared)
    outcome = cohort.train(state, "auto", jobs())
    evaluate(cohort.net, shared_model(cohort.net, cohort.method, state), cohort.data)
    assert "token.weight" in state.base and tree.equal(state.base | state.shared, before)
    assert near(cohort.ups("sequential")[0].shared, tree.omit(train_plain(cohort, 0), ["token.weight"]))
    assert outcome.total.weight == 32


@slow_vmap
def test_neither_evaluation_nor_the_choice_of_an_engine_renorms_the_state() -> None:
    cohort = fedavg(lambda: Renormed(max_norm=0.01), ids())
    state = cohort.method.init(cohort.net, 3)
    before = tree.clone(state.shared)
    choose("auto", cohort.net, cohort.method, state, cohort.data, cohort.recipe)
    evaluate(cohort.net, shared_model(cohort.net, cohort.method, state), cohort.data)
    assert tree.equal(state.shared, before)


def test_a_model_that_writes_to_a_frozen_weight_is_refused() -> None:
    cohort = fedavg(lambda: frozen(Clamped(), "fc.weight"), vectors())
    state = cohort.method.init(cohort.net, 3)
    with pytest.raises(ModelError, match=r"changes fc.weight.*vmap does not support.*changes fc.weight"):
        choose("fused", cohort.net, cohort.method, state, cohort.data, cohort.recipe)
    with pytest.raises(ModelError, match=r"writes to fc.weight.*list them in dense"):
        cohort.rounds("sequential")


def test_a_model_may_write_to_a_trained_weight() -> None:
    cohort = fedavg(Clamped, vectors())
    assert all(near(up.shared, train_plain(cohort, client)) for client, up in cohort.ups("sequential").items())


def test_a_batch_of_one_example_is_a_clear_error_for_batch_norm() -> None:
    """Clients 0 and 2 have 9 and 13 examples, so a last batch of 1; in chunks of 1, the larger one is trained first."""
    cohort = fedavg(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), vectors())
    for engine in ("sequential", "fused"):
        for chunk in (1, 4):
            largest_first = (engine, chunk) == ("fused", 1)
            client, steps, examples = (2, "4 of 8", 13) if largest_first else (0, "3 of 6", 9)
            where = f"client {client}, round 1: local step {steps} on its {examples} examples failed"
            with pytest.raises(TrainingError, match=f"{where}: .*more than 1 value per channel.*drop_last"):
                cohort.rounds(engine, chunk=chunk)


def test_parameters_of_several_dtypes_fuse() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 6), Scale(6), nn.Linear(6, 3))

    net = built(make)
    widths = {key: value.float() if key.startswith("1.") else value for key, value in net.params.items()}
    cohort = Cohort(net._replace(params=widths), methods.fedavg(), vectors(), Recipe(lr=0.1, clip=0.5, batch_size=4))
    states = [cohort.rounds(engine) for engine in ("sequential", "auto")]
    for key, value in states[0].shared.items():
        assert value.dtype == states[1].shared[key].dtype == widths[key].dtype
        assert torch.allclose(value, states[1].shared[key], rtol=0, atol=1e-6)

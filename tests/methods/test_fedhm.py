"""FedHM and FedLMT against dense means, the SVD of dense matrices and, at full rank, FedAvg."""

from __future__ import annotations

import pytest
import torch

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.errors import ConfigError, ModelError
from fedloru.evaluate import shared_model
from fedloru.method import Method, Profile, Up
from fedloru.methods.fedhm import factorised
from fedloru.methods.ranks import rank_of, with_rank
from tests.methods.ranked import (
    FULL_RANK,
    MIXED_RANKS,
    SHARES,
    WEIGHTS,
    allclose,
    best_approximation,
    client_tensors,
    dense,
    effective,
    run_rounds,
    server_weights,
    square_net,
)

FULL = {"2": 6, "3": 6}
"""The full ranks of the linear layers of square_net(); that of the convolution is 4."""


@pytest.mark.parametrize("profiles", [MIXED_RANKS, FULL_RANK])
def test_fedhm_server_model_is_the_mean_of_products(profiles: tuple[Profile, ...]) -> None:
    net, method = square_net(), methods.fedhm()
    for outcome in run_rounds(net, method, 3, profiles):
        model = server_weights(net, method, outcome.after)
        for site in net.sites:
            mean = sum(p * site.scale * dense(site, up.shared) for p, up in zip(SHARES, outcome.ups, strict=True))
            assert allclose(model[site.weight], mean)
            assert not outcome.after.base[site.weight].any()
        theta = sum(p * up.shared["2.bias"] for p, up in zip(SHARES, outcome.ups, strict=True))
        assert allclose(outcome.after.shared["2.bias"], theta)


def test_fedhm_clients_use_the_best_approximation_of_their_rank() -> None:
    net, method = square_net(), methods.fedhm()
    for outcome in run_rounds(net, method, 2, MIXED_RANKS):
        whole = server_weights(net, method, outcome.before)
        for profile, down in zip(MIXED_RANKS, outcome.downs, strict=True):
            weights = effective(net, client_tensors(net, method, outcome.before, down, profile))
            for site in net.sites:
                assert allclose(weights[site.weight], best_approximation(whole[site.weight], rank_of(site, profile)))
                assert down.shared[site.a].norm() == pytest.approx(float(down.shared[site.b].norm()))
                assert site.weight not in down.shared


@pytest.mark.parametrize(
    "method", [methods.fedhm(), methods.fedlmt(), methods.fedpara(init="model")], ids=lambda m: m.name
)
def test_full_rank_starts_from_the_fedavg_model_and_keeps_it_without_training(method: Method) -> None:
    net = square_net(rank=4, ranks=FULL)
    state = method.init(net, 3)
    x = {"x": torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    plain = methods.fedavg()
    expected = nets.forward(net, shared_model(net, plain, plain.init(net, 3)), x)
    started = client_tensors(net, method, state, method.down(net, state, ()), ())
    assert allclose(nets.forward(net, started, x), expected)
    (outcome,) = run_rounds(net, method, 1, FULL_RANK, size=0.0)
    assert allclose(nets.forward(net, shared_model(net, method, outcome.after), x), expected)


def test_fedhm_at_full_rank_averages_like_fedavg() -> None:
    """If the clients' products equal the weights of FedAvg's clients, the servers' models are the same."""
    net, method = square_net(rank=4, ranks=FULL), methods.fedhm()
    (average,) = run_rounds(net, methods.fedavg(), 1, FULL_RANK)
    state = method.init(net, 3)
    sent = []
    for up in average.ups:
        factors = [factorised(site, up.shared[site.weight], site.rank) for site in net.sites]
        rest = tree.omit(up.shared, [site.weight for site in net.sites])
        sent.append(Up(rest | {key: value for part in factors for key, value in part.items()}))
    down = method.down(net, state, ())
    after = method.server(net, state, method.reduce(net, state, down, sent, WEIGHTS))
    assert after.shared.keys() == average.after.shared.keys()
    assert all(allclose(value, average.after.shared[key]) for key, value in after.shared.items())


@pytest.mark.parametrize("init", ["spectral", "random"])
def test_fedlmt_weights_are_low_rank_in_every_round(init: str) -> None:
    net, method = square_net(), methods.fedlmt(init=init)  # type: ignore[arg-type]
    for index, outcome in enumerate(run_rounds(net, method, 2, FULL_RANK)):
        model = server_weights(net, method, outcome.before)
        after = server_weights(net, method, outcome.after)
        for site in net.sites:
            if init == "spectral" and not index:
                assert allclose(model[site.weight], best_approximation(net.params[site.weight].flatten(1), site.rank))
            a, b = (
                sum(p * up.shared[key].flatten(1) for p, up in zip(SHARES, outcome.ups, strict=True))
                for key in site.keys
            )
            assert allclose(after[site.weight], site.scale * torch.einsum("or,ri->oi", b, a))
            assert int(torch.linalg.matrix_rank(after[site.weight])) == site.rank


def test_values() -> None:
    """Sites 4 × 36, 6 × 36 and 6 × 6: 94 values per rank; θ: biases 4 + 6 + 6, head 18 + 3."""
    net = square_net()
    rest = {"dense": 37, "statistics": 0}
    for round, rank in ((1, 3), (1, 1), (2, 2)):
        each = rest | {"factors": 94 * rank}
        assert methods.fedhm().values(net, round, [()], with_rank(rank)) == (each, each, 0)
    whole = rest | {"factors": 282}
    assert methods.fedlmt().values(net, 1, [()], ()) == (whole, whole, 0)
    drawn = methods.fedlmt(init="random")
    assert drawn.values(net, 1, [()], ()) == (rest | {"factors": 0}, whole, 0)
    assert drawn.values(net, 2, [()], ()) == (whole, whole, 0)
    for outcome in run_rounds(net, methods.fedhm(), 1, MIXED_RANKS):
        for profile, down, up in zip(MIXED_RANKS, outcome.downs, outcome.ups, strict=True):
            counted = methods.fedhm().values(net, 1, MIXED_RANKS, profile)
            assert tree.size(down.shared) == sum(counted.down.values())
            assert tree.size(up.shared) == sum(counted.up.values())


def test_unsupported_settings_and_models_raise() -> None:
    with pytest.raises(ConfigError, match="init is 'both', expected 'spectral' or 'random'"):
        methods.fedlmt(init="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fedhm merges what clients sent"):
        methods.server_opt(methods.fedhm())
    plain = nets.make(torch.nn.Linear(3, 2))
    for method in (methods.fedhm(), methods.fedlmt(), methods.fedpara(), methods.fedmud(), methods.flexlora()):
        with pytest.raises(ModelError, match="no low-rank site"):
            method.init(plain, 0)

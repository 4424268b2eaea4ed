"""FedHM and FedLMT against dense means and the SVD of dense matrices, and where they are FedAvg."""

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
    RANKED,
    SAME,
    SHARES,
    WEIGHTS,
    best,
    dense,
    effective,
    play,
    same,
    served,
    square,
    with_factors,
)

FULL = {"2": 6, "3": 6}
"""With rank 4 for the convolution, the ranks of square() that leave nothing out."""


@pytest.mark.parametrize("profiles", [RANKED, SAME])
def test_fedhm_serves_the_mean_of_products(profiles: tuple[Profile, ...]) -> None:
    net, method = square(), methods.fedhm()
    for played in play(net, method, 3, profiles):
        model = served(net, method, played.after)
        for site in net.sites:
            mean = sum(p * site.scale * dense(site, up.shared) for p, up in zip(SHARES, played.ups, strict=True))
            assert same(model[site.weight], mean)
            assert not played.after.base[site.weight].any()
        theta = sum(p * up.shared["2.bias"] for p, up in zip(SHARES, played.ups, strict=True))
        assert same(played.after.shared["2.bias"], theta)


def test_fedhm_clients_compute_with_the_nearest_of_their_rank() -> None:
    net, method = square(), methods.fedhm()
    for played in play(net, method, 2, RANKED):
        whole = served(net, method, played.before)
        for profile, down in zip(RANKED, played.downs, strict=True):
            weights = effective(net, with_factors(net, method, played.before, down, profile))
            for site in net.sites:
                assert same(weights[site.weight], best(whole[site.weight], rank_of(site, profile)))
                assert down.shared[site.a].norm() == pytest.approx(float(down.shared[site.b].norm()))
                assert site.weight not in down.shared


@pytest.mark.parametrize(
    "method", [methods.fedhm(), methods.fedlmt(), methods.fedpara(init="model")], ids=lambda m: m.name
)
def test_full_rank_begins_at_the_model_of_fedavg_and_keeps_it_untrained(method: Method) -> None:
    net = square(rank=4, ranks=FULL)
    state = method.init(net, 3)
    x = {"x": torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    plain = methods.fedavg()
    expected = nets.forward(net, shared_model(net, plain, plain.init(net, 3)), x)
    started = with_factors(net, method, state, method.down(net, state, ()), ())
    assert same(nets.forward(net, started, x), expected)
    (played,) = play(net, method, 1, SAME, size=0.0)
    assert same(nets.forward(net, shared_model(net, method, played.after), x), expected)


def test_fedhm_averages_full_rank_weights_as_fedavg_does() -> None:
    """Clients whose products are what FedAvg's clients trained: the servers' models are then the same."""
    net, method = square(rank=4, ranks=FULL), methods.fedhm()
    (average,) = play(net, methods.fedavg(), 1, SAME)
    state = method.init(net, 3)
    sent = []
    for up in average.ups:
        factors = [factorised(site, up.shared[site.weight], site.rank) for site in net.sites]
        rest = tree.omit(up.shared, [site.weight for site in net.sites])
        sent.append(Up(rest | {key: value for part in factors for key, value in part.items()}))
    down = method.down(net, state, ())
    after = method.server(net, state, method.reduce(net, state, down, sent, WEIGHTS))
    assert after.shared.keys() == average.after.shared.keys()
    assert all(same(value, average.after.shared[key]) for key, value in after.shared.items())


@pytest.mark.parametrize("init", ["spectral", "random"])
def test_fedlmt_is_low_rank_from_start_to_end(init: str) -> None:
    net, method = square(), methods.fedlmt(init=init)  # type: ignore[arg-type]
    for number, played in enumerate(play(net, method, 2, SAME)):
        model = served(net, method, played.before)
        after = served(net, method, played.after)
        for site in net.sites:
            if init == "spectral" and not number:
                assert same(model[site.weight], best(net.params[site.weight].flatten(1), site.rank))
            a, b = (
                sum(p * up.shared[key].flatten(1) for p, up in zip(SHARES, played.ups, strict=True))
                for key in site.keys
            )
            assert same(after[site.weight], site.scale * torch.einsum("or,ri->oi", b, a))
            assert int(torch.linalg.matrix_rank(after[site.weight])) == site.rank


def test_values_by_hand() -> None:
    """Sites 4 × 36, 6 × 36 and 6 × 6: 94 values a rank; θ: biases 4 + 6 + 6, head 18 + 3."""
    net = square()
    rest = {"dense": 37, "statistics": 0}
    for round, rank in ((1, 3), (1, 1), (2, 2)):
        each = rest | {"factors": 94 * rank}
        assert methods.fedhm().values(net, round, [()], with_rank(rank)) == (each, each, 0)
    whole = rest | {"factors": 282}
    assert methods.fedlmt().values(net, 1, [()], ()) == (whole, whole, 0)
    drawn = methods.fedlmt(init="random")
    assert drawn.values(net, 1, [()], ()) == (rest | {"factors": 0}, whole, 0)
    assert drawn.values(net, 2, [()], ()) == (whole, whole, 0)
    for played in play(net, methods.fedhm(), 1, RANKED):
        for profile, down, up in zip(RANKED, played.downs, played.ups, strict=True):
            counted = methods.fedhm().values(net, 1, RANKED, profile)
            assert tree.size(down.shared) == sum(counted.down.values())
            assert tree.size(up.shared) == sum(counted.up.values())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="init is 'both', expected 'spectral' or 'random'"):
        methods.fedlmt(init="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fedhm merges what clients sent"):
        methods.server_opt(methods.fedhm())
    plain = nets.make(torch.nn.Linear(3, 2))
    for method in (methods.fedhm(), methods.fedlmt(), methods.fedpara(), methods.fedmud(), methods.flexlora()):
        with pytest.raises(ModelError, match="no low-rank site"):
            method.init(plain, 0)

"""FedPara against explicit products, and Proposition 3 against explicit sums."""

from __future__ import annotations

import math

import pytest
import torch

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.errors import ConfigError
from fedloru.lowrank import Site
from fedloru.methods.hadamard import product, shapes
from tests.methods.ranked import FULL_RANK, SHARES, allclose, client_tensors, run_rounds, server_weights, square_net


def explicit_product(site: Site, train: tree.Params, n: str) -> torch.Tensor:
    """Return XYᵀ, or Σ_ab T_ab ⊗ x_a ⊗ y_b, as a sum over ranks."""
    x, y, *core = (train[key] for key in shapes(site, n))
    total = torch.zeros(site.shape, dtype=x.dtype)
    for a in range(site.rank):
        for b in range(site.rank) if core else (a,):
            outer = x[:, a].view(-1, 1) * y[:, b].view(1, -1)
            total += outer[:, :, None, None] * core[0][a, b] if core else outer
    return total


@pytest.mark.parametrize("personal", [False, True])
def test_weights_are_products_of_the_factors(personal: bool) -> None:
    net, method = square_net(), methods.fedpara(personal=personal)
    outcome = run_rounds(net, method, 2, FULL_RANK)[1]
    train = method.begin(net, outcome.downs[0], {}, ())
    g = torch.Generator().manual_seed(0)
    train = {key: value + torch.randn(value.shape, generator=g).to(value) for key, value in train.items()}
    assert method.expand is not None
    whole = method.expand(net, train, outcome.downs[0])
    for site in net.sites:
        first, second = explicit_product(site, train, "1"), explicit_product(site, train, "2")
        assert allclose(whole[site.weight], first * (second + 1 if personal else second))
    assert whole.keys() == (net.trainable - net.factors) | {site.weight for site in net.sites}


def test_proposition_3_is_a_dense_contraction() -> None:
    """The first unfolding of T ×₁ X ×₂ Y is X T₁ (Y ⊗ I)ᵀ."""
    site = Site("w", "a", "b", (5, 4, 3, 3), 2, 1.0)
    g = torch.Generator().manual_seed(1)
    train = {key: torch.randn(shape, generator=g).double() for key, shape in shapes(site, "1").items()}
    x, y, t = train["w.x1"], train["w.y1"], train["w.t1"]
    unfolded = x @ t.reshape(2, -1) @ torch.kron(y, torch.eye(9).double()).T
    assert allclose(product(site, train, "1"), unfolded.reshape(site.shape))


def test_server_averages_the_factors() -> None:
    net, method = square_net(), methods.fedpara()
    for outcome in run_rounds(net, method, 2, FULL_RANK):
        for key in outcome.after.shared:
            mean = sum(p * up.shared[key] for p, up in zip(SHARES, outcome.ups, strict=True))
            assert allclose(outcome.after.shared[key], mean)
        model = server_weights(net, method, outcome.after)
        for site in net.sites:
            expected = explicit_product(site, outcome.after.shared, "1") * explicit_product(
                site, outcome.after.shared, "2"
            )
            assert allclose(model[site.weight], expected.flatten(1))


def test_private_pairs_stay_on_the_client() -> None:
    net, method = square_net(), methods.fedpara(personal=True)
    state = method.init(net, 3)
    down = method.down(net, state, ())
    start = method.begin(net, down, {}, ())
    trained = {key: value + 1 for key, value in start.items()}
    up, own = method.up(net, trained, down, {}, 1)
    private = {key for site in net.sites for key in shapes(site, "2")}
    assert own.keys() == private and not private & (up.shared.keys() | down.shared.keys() | state.shared.keys())
    again = method.begin(net, down, own, ())
    assert tree.equal(tree.select(again, sorted(private)), tree.select(trained, sorted(private)))
    weights = client_tensors(net, method, state, down, ())  # the private product is initially 0
    for site in net.sites:
        assert allclose(weights[site.weight], explicit_product(site, start, "1"))


@pytest.mark.parametrize("personal", [False, True])
def test_he_initialization_has_variance_2_over_i(personal: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3), torch.nn.Flatten(), torch.nn.Linear(1024, 1024))
    net = nets.attach(model, rank=16, targets=["*"])
    state = methods.fedpara(personal=personal).init(net, 0)
    for site in net.sites:
        weight = explicit_product(site, state.shared, "1")
        if not personal:
            weight = weight * explicit_product(site, state.shared, "2")
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / site.i), rel=0.35)
        assert float(weight.mean().abs()) < 0.1 * float(weight.std())


def test_initial_model_is_truncated_to_the_rank() -> None:
    net, method = square_net(), methods.fedpara(init="model")
    model = server_weights(net, method, method.init(net, 3))
    for site in net.sites[1:]:
        u, sigma, vt = torch.linalg.svd(net.params[site.weight], full_matrices=False)
        assert allclose(model[site.weight], u[:, :3] @ torch.diag(sigma[:3]) @ vt[:3])
    conv = net.params[net.sites[0].weight]  # the truncated HOSVD projects the first two modes
    x = torch.linalg.svd(conv.reshape(4, -1))[0][:, :3]
    y = torch.linalg.svd(conv.transpose(0, 1).reshape(4, -1))[0][:, :3]
    projected = torch.einsum("oikl,op,ij->pjkl", conv, x @ x.T, y @ y.T)
    assert allclose(model[net.sites[0].weight], projected.flatten(1))


@pytest.mark.parametrize("settings", [{}, {"init": "model"}, {"personal": True}])
def test_all_ranks_have_gradients(settings: dict[str, object]) -> None:
    """After two gradient steps, all columns have nonzero gradients."""
    net, method = square_net(), methods.fedpara(**settings)  # type: ignore[arg-type]
    state = method.init(net, 3)
    down = method.down(net, state, ())
    train = method.begin(net, down, {}, ())
    own = {key for site in net.sites for n in "12" for key in shapes(site, n)}
    assert method.expand is not None
    for _ in range(3):
        leaves = {key: train[key].detach().requires_grad_() for key in sorted(own)}
        whole = method.expand(net, train | leaves, down)
        g = torch.Generator().manual_seed(2)
        loss = sum((whole[s.weight] * torch.randn(s.shape, generator=g)).square().sum() for s in net.sites)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        train = train | {key: leaves[key].detach() - 0.01 * grads[key] for key in leaves}
    for site in net.sites:
        for n in "12":
            for key in list(shapes(site, n))[:2]:
                assert bool((grads[key].abs().sum(0) > 0).all()), key


def test_values() -> None:
    """R = 3. Convolution 4 → 4: 3·(4 + 4 + 3·9) = 105; 36 → 6: 3·42 = 126; 6 → 6: 3·12 = 36; a pair: 267; θ: 37."""
    net = square_net()
    for personal, pairs in ((False, 2), (True, 1)):
        method = methods.fedpara(personal=personal)
        each = {"dense": 37, "statistics": 0, "factors": pairs * 267}
        assert method.values(net, 1, [()], ()) == (each, each, 0)
        (outcome,) = run_rounds(net, method, 1, FULL_RANK)
        assert tree.size(outcome.downs[0].shared) == tree.size(outcome.ups[0].shared) == sum(each.values())


def test_base_has_no_dense_weights() -> None:
    net = square_net()
    state = methods.fedpara().init(net, 3)
    assert state.base.keys() == net.factors
    assert tree.size(state.base) == 94 and not any(value.any() for value in state.base.values())


def test_invalid_settings_raise() -> None:
    with pytest.raises(ConfigError, match="init is 'he', expected 'random' or 'model'"):
        methods.fedpara(init="he")  # type: ignore[arg-type]

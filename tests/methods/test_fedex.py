"""FedEx-LoRA: averaged factors, and the residual as an increment."""

from __future__ import annotations

import torch

from fedloru import methods, tree
from fedloru.method import NOTHING
from fedloru.wire import cost
from tests.methods.catching_up import sync_kinds
from tests.methods.cohort import SHARES, close, mean, run_rounds, small_net
from tests.methods.oracle import forward_weights, max_difference, run_round


def test_rounds_match_the_equations() -> None:
    net = small_net()
    for before, ups, after in run_rounds(net, methods.fedex(), 4):
        assert close(after.shared, mean(ups))
        assert after.version == after.round == before.version + 1
        for site in net.sites:
            products = [u.shared[site.b].flatten(1) @ u.shared[site.a].flatten(1) for u in ups]
            averaged = mean(ups)[site.b].flatten(1) @ mean(ups)[site.a].flatten(1)
            residual = site.scale * (sum(p * x for p, x in zip(SHARES, products, strict=True)) - averaged)
            change = (after.base[site.weight] - before.base[site.weight]).flatten(1)
            assert torch.allclose(change, residual, rtol=0, atol=1e-9) and float(residual.norm()) > 0.1
            assert after.increment[site.a].shape == site.a_shape(3 * site.rank)


def test_residual_of_one_client_or_identical_clients_is_zero() -> None:
    net, method = small_net(), methods.fedex()
    state = method.init(net, 3)
    _, _, ups = run_round(net, method, state)
    down = method.down(net, state, ())
    for count in (1, 3):
        total = NOTHING.join(method.reduce(net, state, down, ups[:1] * count, [2.0] * count), net)
        after = method.server(net, state, total)
        assert close(after.base, state.base, 1e-12) and close(after.shared, ups[0].shared, 1e-12)


def test_residual_is_the_aggregation_error_of_fedlora() -> None:
    net, fedex, fedlora = small_net(), methods.fedex(), methods.fedlora()
    state = fedlora.init(net, 3)
    (fedex_state, exact, _), (fedlora_state, _, _) = (run_round(net, method, state) for method in (fedex, fedlora))
    error = {key: exact[key] - value for key, value in forward_weights(net, fedlora, fedlora_state).items()}
    change = {site.weight: (fedex_state.base[site.weight] - state.base[site.weight]).flatten(1) for site in net.sites}
    assert max_difference(error, change) < 1e-9 and close(fedex_state.shared, fedlora_state.shared)


def test_values() -> None:
    """Factors are 86 values, and the residual of P clients has rank P·2."""
    net, method = small_net(), methods.fedex()
    rest, factors = {"dense": 32, "statistics": 8}, {"factors": 86}
    assert method.values(net, 1, [(), (), ()], ()) == (rest | {"factors": 0}, rest | factors, 3 * 86)
    assert method.values(net, 2, [()], ()) == (rest | factors, rest | factors, 86)
    state, _, _ = run_round(net, method, method.init(net, 3))
    assert tree.size(state.increment) == 3 * 86
    one, three = cost(net, method, [[0], [0]], codec="exact"), cost(net, method, [[0, 1, 2], [0]], codec="exact")
    assert one[1].down["increments"] == 8 * 86
    assert three[1].down["increments"] == 8 * (4 * 18 + 5 * 16)  # dense weights, which are fewer than 3·86 values


def test_bases_are_bit_exact_after_missed_rounds() -> None:
    assert sync_kinds(methods.fedex()) == {"first", "increments", "dense"}

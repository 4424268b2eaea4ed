"""FedEx-LoRA: means of the factors, and the residual as an increment."""

from __future__ import annotations

import torch

from fedloru import methods, tree
from fedloru.method import NOTHING
from fedloru.wire import cost
from tests.methods.catching_up import play_with_messages
from tests.methods.cohort import SHARES, close, mean, play, small
from tests.methods.oracle import client_round, forward_weights, gap


def test_fedex_is_its_equations() -> None:
    net = small()
    for before, ups, after in play(net, methods.fedex(), 4):
        assert close(after.shared, mean(ups))
        assert after.version == after.round == before.version + 1
        for site in net.sites:
            products = [u.shared[site.b].flatten(1) @ u.shared[site.a].flatten(1) for u in ups]
            averaged = mean(ups)[site.b].flatten(1) @ mean(ups)[site.a].flatten(1)
            residual = site.scale * (sum(p * x for p, x in zip(SHARES, products, strict=True)) - averaged)
            change = (after.base[site.weight] - before.base[site.weight]).flatten(1)
            assert torch.allclose(change, residual, rtol=0, atol=1e-9) and float(residual.norm()) > 0.1
            assert after.increment[site.a].shape == site.a_shape(3 * site.rank)


def test_one_client_or_equal_clients_leave_no_residual() -> None:
    net, method = small(), methods.fedex()
    state = method.init(net, 3)
    _, _, ups = client_round(net, method, state)
    down = method.down(net, state, ())
    for count in (1, 3):
        total = NOTHING.join(method.reduce(net, state, down, ups[:1] * count, [2.0] * count), net)
        after = method.server(net, state, total)
        assert close(after.base, state.base, 1e-12) and close(after.shared, ups[0].shared, 1e-12)


def test_the_residual_is_what_fedlora_leaves_out() -> None:
    net, fedex, fedlora = small(), methods.fedex(), methods.fedlora()
    state = fedlora.init(net, 3)
    (mine, exact, _), (theirs, _, _) = (client_round(net, method, state) for method in (fedex, fedlora))
    left_out = {key: exact[key] - value for key, value in forward_weights(net, fedlora, theirs).items()}
    change = {site.weight: (mine.base[site.weight] - state.base[site.weight]).flatten(1) for site in net.sites}
    assert gap(left_out, change) < 1e-9 and close(mine.shared, theirs.shared)


def test_values_by_hand() -> None:
    """Factors are 86 values, and the residual of P clients has rank P·2."""
    net, method = small(), methods.fedex()
    rest, factors = {"dense": 32, "statistics": 8}, {"factors": 86}
    assert method.values(net, 1, [(), (), ()], ()) == (rest | {"factors": 0}, rest | factors, 3 * 86)
    assert method.values(net, 2, [()], ()) == (rest | factors, rest | factors, 86)
    state, _, _ = client_round(net, method, method.init(net, 3))
    assert tree.size(state.increment) == 3 * 86
    one, three = cost(net, method, [[0], [0]], codec="exact"), cost(net, method, [[0, 1, 2], [0]], codec="exact")
    assert one[1].down["increments"] == 8 * 86
    assert three[1].down["increments"] == 8 * (4 * 18 + 5 * 16)  # dense, for 3·86 values are more


def test_bases_are_equal_bit_for_bit_whatever_rounds_a_client_missed() -> None:
    assert play_with_messages(methods.fedex()) == {"first", "increments", "dense"}

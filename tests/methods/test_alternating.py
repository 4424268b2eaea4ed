"""Alternating FedLoRU against dense formulas, FedAvg and a loop written by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import client, lowrank, methods, tree
from fedloru import net as nets
from fedloru.method import NOTHING, Method, State, Up
from fedloru.methods.alternating import LAST, LEFTOVER
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.session import Job, Session
from tests.methods.cohort import SHARES, close, run_rounds, small_net


def product(site: lowrank.Site, factors: tree.Params) -> Tensor:
    return site.scale * (factors[site.b].flatten(1) @ factors[site.a].flatten(1)).view(site.shape)


@pytest.mark.parametrize("tau", [1, 2, [2, 3, 6]])
def test_rounds_match_the_equations(tau: int | list[int]) -> None:
    net = small_net()
    merges = {t for t in range(1, 8) if (t in tau if isinstance(tau, list) else t % tau == 0)}
    weights, version = {site.weight: net.params[site.weight] for site in net.sites}, 0
    for before, ups, after in run_rounds(net, methods.fedloru(tau=tau), 7):
        assert close(tree.select(before.base, weights), weights)
        for site in net.sites:
            fixed, trained = (site.b, site.a) if version % 2 else (site.a, site.b)
            assert fixed in before.base and trained not in before.base
            assert trained in before.shared and fixed not in before.shared
            columns = before.base[fixed].flatten(1)
            gram = columns @ columns.T if fixed == site.a else columns.T @ columns
            assert torch.allclose(gram, torch.eye(4, dtype=torch.float64), atol=1e-6)  # 2r = 4
            if after.round in merges:
                mean = sum(p * product(site, before.base | up.shared) for p, up in zip(SHARES, ups, strict=True))
                weights[site.weight] = weights[site.weight] + mean  # the aggregate is exact
        version += after.round in merges
        assert (after.round, after.version) == (before.round + 1, version)
    assert version == len(merges)


def perceptron(rank: int, alpha: float = 2.0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return nets.attach(model.double(), rank=rank, alpha=alpha, targets=("*",))


def examples() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(4)
    return {
        "x": torch.randn(40, 6, generator=g, dtype=torch.float64),
        "y": torch.randint(0, 3, (40,), generator=g),
    }


RECIPE = Recipe(lr=0.3, momentum=0.0, clip=0.5, batch_size=4, schedule="constant")


def trained(net: Net, method: Method, rounds: int, recipe: Recipe = RECIPE) -> State:
    """Return the state after rounds in which two clients take part, each with 20 examples."""
    state, data = method.init(net, 3), examples()
    kept: dict[int, tree.Params] = {0: {}, 1: {}}
    for _ in range(rounds):
        total = NOTHING
        for number in kept:
            down = method.down(net, state, ())
            session = Session(net, method, state.base, down, data, recipe, 3, state.round + 1)
            rows = torch.arange(20 * number, 20 * number + 20)
            done = client.train(session, Job(number, rows, kept[number]))
            kept[number] = done.client_state
            total = total.join(method.reduce(net, state, down, [done.up], [20.0]), net)
        state = method.server(net, state, total)
    return state


def weights(net: Net, state: State) -> tree.Params:
    return {key: value for key, value in (state.base | state.shared).items() if key not in net.factors}


@pytest.mark.parametrize("local", ["factors", "dense"])
def test_at_full_rank_it_is_fedavg(local: str) -> None:
    """With q = i or q = o, the fixed factor is square or both sides span all: the projection loses nothing."""
    square = nets.attach(nn.Sequential(nn.Linear(4, 4, bias=False)).double(), rank=2, alpha=2.0)  # q = 4, s = 1
    plain = nets.make(nn.Sequential(nn.Linear(4, 4, bias=False)).double())
    plain = plain._replace(params={"0.weight": square.params["0.weight"]})
    data = {"x": examples()["x"][:, :4].clone(), "y": examples()["y"]}
    states = []
    for net, method in ((square, methods.fedloru(local=local)), (plain, methods.fedavg())):  # type: ignore[arg-type]
        state = method.init(net, 3)
        for _ in range(4):
            down = method.down(net, state, ())
            session = Session(net, method, state.base, down, data, RECIPE, 3, state.round + 1)
            done = client.train(session, Job(0, torch.arange(40)))
            state = method.server(net, state, method.reduce(net, state, down, [done.up], [1.0]))
        states.append(weights(net, state))
    assert close(*states, 1e-6)


def test_factors_equal_a_loop_written_by_hand() -> None:
    """Two clients, three rounds, s = 2; written with torch alone, but for the bases and the batches."""
    net, method = perceptron(rank=1, alpha=2.0), methods.fedloru()
    first = method.init(net, 3)
    data, params = examples(), {key: value.clone() for key, value in net.params.items()}
    fixed = {"0": first.base["0.a"], "2": first.base["2.a"]}
    for round in range(1, 4):
        side = "left" if round % 2 else "right"
        sums: dict[str, Tensor] = {}
        for number in range(2):
            own = {key: params[key].clone().requires_grad_() for key in ("0.bias", "2.bias")}
            for name, q in fixed.items():
                o, i = params[f"{name}.weight"].shape
                shape = (o, len(q)) if side == "left" else (q.shape[1], i)
                own[name] = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            plan = client.local_schedule(Job(number, torch.arange(20 * number, 20 * number + 20)), RECIPE, 3, round)
            for rows in plan.rows:
                x = data["x"][rows]
                for name in fixed:
                    change = own[name] @ fixed[name] if side == "left" else fixed[name] @ own[name]
                    x = F.linear(x, params[f"{name}.weight"] + 2 * change, own[f"{name}.bias"])
                    x = torch.tanh(x) if name == "0" else x
                gradients = torch.autograd.grad(F.cross_entropy(x, data["y"][rows]), list(own.values()))
                norm = torch.sqrt(sum(g.square().sum() for g in gradients))
                with torch.no_grad():
                    for value, gradient in zip(own.values(), gradients, strict=True):
                        value -= RECIPE.rate * gradient * min(1.0, 0.5 / (float(norm) + 1e-6))
            for key, value in own.items():
                sums[key] = sums.get(key, 0) + value.detach() / 2
        for key in ("0.bias", "2.bias"):
            params[key] = sums[key]
        for name in fixed:
            mean, q = sums[name], fixed[name]
            params[f"{name}.weight"] = params[f"{name}.weight"] + 2 * (mean @ q if side == "left" else q @ mean)
            fixed[name] = lowrank.orthonormal(mean) if side == "left" else lowrank.orthonormal(mean.T).T
    after = trained(net, method, 3)
    assert close(weights(net, after), tree.omit(params, net.factors), 1e-9)


def sent(net: Net, method: Method, state: State, change: tree.Params, own: tree.Params) -> tuple[Up, tree.Params]:
    """Return what a client sends and keeps whose local training adds ``change`` to the weights."""
    down = method.down(net, state, ())
    start = method.begin(net, down, own, ())
    return method.up(net, start | {key: start[key] + change[key] for key in change}, down, own, 1)


def changes(net: Net, seed: int) -> tree.Params:
    g = torch.Generator().manual_seed(seed)
    return {s.weight: torch.randn(s.shape, generator=g, dtype=torch.float64) for s in net.sites}


def test_what_is_sent_and_what_is_left_over_add_up_to_the_change() -> None:
    """Over any number of rounds, nothing of a client's changes is lost: Σ sent + leftover = Σ change."""
    net, method = small_net(), methods.fedloru(local="dense")
    state, own = method.init(net, 3), tree.Params()
    whole = {site.weight: torch.zeros(site.shape, dtype=torch.float64) for site in net.sites}
    arrived = dict(whole)
    for round in range(5):
        change = changes(net, round)
        up, own = sent(net, method, state, change, own)
        whole = tree.add(whole, change)
        arrived = {s.weight: arrived[s.weight] + product(s, state.base | up.shared) for s in net.sites}
        for site in net.sites:
            left = own[LEFTOVER + site.weight].view(site.shape)
            # The fixed factors are rounded to the model's dtype, so that projections are exact to that.
            assert torch.allclose(arrived[site.weight] + left, whole[site.weight], atol=1e-9)
        total = method.reduce(net, state, method.down(net, state, ()), [up], [1.0])
        state = method.server(net, state, total)


def test_the_projection_contracts_the_leftover() -> None:
    """‖D − D AᵀA‖ ≤ ‖D‖, and it is orthogonal to the fixed factor."""
    net, method = small_net(), methods.fedloru(local="dense")
    state, change = method.init(net, 3), changes(net, 0)
    _, own = sent(net, method, state, change, {})
    for site in net.sites:
        left, fixed = own[LEFTOVER + site.weight], state.base[site.a].flatten(1)
        assert left.norm() < change[site.weight].norm()
        assert float((left @ fixed.T).abs().max()) < 1e-6


def test_what_clients_send_is_linear_so_that_the_mean_is_exact() -> None:
    net, method = small_net(), methods.fedloru(local="dense", memory=0)
    state, x, y = method.init(net, 3), changes(net, 0), changes(net, 1)
    (one, _), (two, _), (both, _) = (sent(net, method, state, change, {}) for change in (x, y, tree.add(x, y)))
    factors = net.factors & one.shared.keys()
    assert close(tree.select(tree.add(one.shared, two.shared), factors), tree.select(both.shared, factors), 1e-9)


@pytest.mark.parametrize(("absent", "used"), [(1, True), (2, True), (3, False)])
def test_a_leftover_is_used_only_if_it_is_recent(absent: int, used: bool) -> None:
    net, method = small_net(), methods.fedloru(local="dense", memory=2)
    state = method.init(net, 3)
    _, own = sent(net, method, state, changes(net, 0), {})
    assert int(own[LAST]) == 1
    for _ in range(absent):
        up, _ = sent(net, method, state, changes(net, 7), {})
        state = method.server(net, state, method.reduce(net, state, method.down(net, state, ()), [up], [1.0]))
    nothing = {site.weight: torch.zeros(site.shape, dtype=torch.float64) for site in net.sites}
    up, _ = sent(net, method, state, nothing, own)
    assert any(bool((up.shared[key].abs() > 1e-9).any()) for key in net.factors & up.shared.keys()) == used


def test_without_memory_clients_keep_nothing() -> None:
    net, method = small_net(), methods.fedloru(local="dense", memory=0)
    _, own = sent(net, method, method.init(net, 3), changes(net, 0), {})
    assert own == {}


def test_rounds_on_a_constant_gradient_are_a_power_iteration() -> None:
    """Clients that step along one matrix G fix its leading singular vectors in the end."""
    net, method = small_net(), methods.fedloru(recipe="alternating", tau=1)
    state = method.init(net, 3)
    g = {s.weight: decaying(s) for s in net.sites}
    for _ in range(12):
        down = method.down(net, state, ())
        up = dict(down.shared)
        for site in net.sites:
            gradient = g[site.weight]
            if site.b in up:
                up[site.b] = -(gradient @ down.base[site.a].flatten(1).T).view(up[site.b].shape)
            else:
                up[site.a] = -(down.base[site.b].flatten(1).T @ gradient).view(up[site.a].shape)
        state = method.server(net, state, method.reduce(net, state, down, [Up(up)], [1.0]))
    for site in net.sites:
        fixed = state.base[site.a].flatten(1)
        _, _, right = torch.linalg.svd(g[site.weight], full_matrices=False)
        captured = (right[:4] @ fixed.T).norm(dim=1)  # q = 2r = 4
        assert torch.allclose(captured, torch.ones(4, dtype=torch.float64), atol=1e-3)


def decaying(site: lowrank.Site) -> Tensor:
    """Return a matrix with the singular values 1, 1/2, 1/4, …, but 0 after the q-th."""
    generator = torch.Generator().manual_seed(len(site.weight))
    u, _, v = torch.linalg.svd(torch.randn(site.o, site.i, generator=generator, dtype=torch.float64))
    return sum(0.5**j * torch.outer(u[:, j], v[j]) for j in range(min(site.o, 4)))  # type: ignore[return-value]


def test_the_gain_after_a_reset_of_the_published_recipe() -> None:
    """E s²‖GAᵀ‖²/‖G‖² = s² r/(3i), which docs/theory.md compares with the alternating recipe."""
    site = lowrank.Site("w", "w.a", "w.b", (20, 50), 3, 2.0)
    like = {key: torch.zeros(()) for key in site.keys}
    gradient = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    draws = [lowrank.init_factors([site], 0, version, like)["w.a"] for version in range(400)]
    gains = torch.stack([4 * (gradient @ a.T).square().sum() / gradient.square().sum() for a in draws])
    assert float(gains.mean()) == pytest.approx(4 * 3 / (3 * 50), rel=0.03)

"""pFedLoRU and mFedLoRU against FedLoRU, dense products and explicit counts."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from fedloru import lowrank, methods, tree
from fedloru import net as nets
from fedloru.client import train
from fedloru.errors import ConfigError
from fedloru.evaluate import Score, shared_model
from fedloru.method import Down, Method, State, Up
from fedloru.methods.mfedloru import nested
from fedloru.methods.ranks import with_rank
from fedloru.net import Net
from fedloru.personal import personal_model, personal_scores, spread
from fedloru.recipe import Recipe
from fedloru.run.checks import check
from fedloru.session import Job, Session
from tests.laws.cases import world
from tests.laws.test_runs import plan

RANK_1 = with_rank(1)


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(1, 5, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(20, 3)]
        return nets.attach(torch.nn.Sequential(*layers).double(), rank=3, alpha=1.5, targets=["*"])


def data() -> tree.Params:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(24, 1, 4, 4, generator=g, dtype=torch.float64)
    return {"x": x, "y": torch.randint(0, 3, (24,), generator=g)}


def trained(method: Method, state: State, job: Job, n: Net, epochs: int = 2) -> tuple[Down, Up, tree.Params]:
    down = method.down(n, state, job.profile)
    recipe = Recipe(lr=0.2, momentum=0, clip=None, batch_size=6, epochs=epochs)
    done = train(Session(n, method, state.base, down, data(), recipe, 0, state.round + 1), job)
    return down, done.up, done.client_state


def test_mfedloru_at_full_rank_equals_fedloru_bit_for_bit() -> None:
    n, job = net(), Job(0, torch.arange(12))
    fedloru, mixed = methods.fedloru(recipe="paper", tau=2), methods.mfedloru(tau=2)
    state = fedloru.init(n, 0)
    _, expected, _ = trained(fedloru, state, job, n)
    _, actual, _ = trained(mixed, state, job._replace(profile=with_rank(3)), n)
    assert tree.equal(actual.shared, expected.shared)


def test_mfedloru_server_computes_the_factors_from_nested_pairs() -> None:
    n, method = net(), methods.mfedloru(tau=2, nested_scale=1.5)
    state = method.init(n, 0)
    down, up, _ = trained(method, state, Job(0, torch.arange(12), {}, RANK_1), n)
    assert not n.factors & up.shared.keys()
    total = method.reduce(n, state, down, [up], [1.0])
    for site in n.sites:
        for pair in nested(site, 1, 1.5):
            product = 1.5 * up.shared[pair.b].flatten(1) @ up.shared[pair.a].flatten(1)
            rebuilt = state.shared[pair.weight] + product.view(pair.shape)
            assert torch.allclose(total.sum.shared[pair.weight], rebuilt, rtol=0, atol=1e-12)
            assert up.shared[pair.a].shape[0] == up.shared[pair.b].shape[1] == 1
            assert float(up.shared[pair.b].abs().max()) > 0


def test_mfedloru_starts_from_the_received_factors_and_draws_new_pairs_each_round() -> None:
    n, method = net(), methods.mfedloru()
    state = method.init(n, 0)
    starts = [method.begin(n, method.down(n, state._replace(round=t), RANK_1), {}, RANK_1) for t in (0, 1, 0)]
    forward = method.expand(n, starts[0], method.down(n, state, RANK_1))
    assert all(torch.equal(forward[key], state.shared[key]) for key in n.factors)
    assert tree.equal(starts[0], starts[2]) and not tree.equal(starts[0], starts[1])


def test_mfedloru_values() -> None:
    """Sites 5 × 9 and 3 × 20 of rank 3; a client of rank 1 sends (3 + i) + (o + 3) values per site."""
    n, method = net(), methods.mfedloru(tau=5)
    counted = method.values(n, 2, [RANK_1, ()], RANK_1)
    assert counted.up["factors"] == (3 + 9) + (5 + 3) + (3 + 20) + (3 + 3)
    assert counted.down["factors"] == 3 * (5 + 9) + 3 * (3 + 20)
    assert method.values(n, 2, [RANK_1, ()], ()).up["factors"] == 3 * (5 + 9) + 3 * (3 + 20)


def test_pfedloru_private_pairs_start_at_zero_and_are_never_sent() -> None:
    n, method = net(), methods.pfedloru(tau=2, private_rank=2)
    state = method.init(n, 0)
    batch = {key: value[:5] for key, value in data().items()}
    shared = nets.forward(n, shared_model(n, methods.fedloru(recipe="paper", tau=2), state), batch)
    personal = nets.forward(n, personal_model(n, method, state, {}, ()), batch)
    assert torch.equal(shared, personal)
    _, up, own = trained(method, state, Job(0, torch.arange(12)), n)
    assert up.shared.keys() == state.shared.keys()
    assert {len(own[f"{site.a}.private"]) for site in n.sites} == {2}


def test_pfedloru_layer_computes_with_the_private_product() -> None:
    n, method = net(), methods.pfedloru(tau=2, private_scale=0.7)
    state = method.init(n, 0)
    _, up, own = trained(method, state, Job(0, torch.arange(12)), n)
    forward = method.expand(n, up.shared | own, Down(state.shared))
    for site in n.sites:
        shared = site.scale * up.shared[site.b].flatten(1) @ up.shared[site.a].flatten(1)
        private = 0.7 * own[f"{site.b}.private"].flatten(1) @ own[f"{site.a}.private"].flatten(1)
        actual = lowrank.delta(site, forward).flatten(1)
        assert torch.allclose(actual, shared + private, rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", ["private", "shared"])
def test_pfedloru_trains_one_half_per_phase(first: str) -> None:
    """The private phase trains the private pair and leaves all shared tensors unchanged."""
    n = net()
    method = methods.pfedloru(tau=2, first=first, private_epochs=1)
    state = method.init(n, 0)
    start = method.begin(n, method.down(n, state, ()), {}, ())
    private, shared = method.phases(n, start) if first == "private" else method.phases(n, start)[::-1]
    assert private.keys | shared.keys == start.keys() and not private.keys & shared.keys
    assert private.epochs == 1 and shared.epochs is None
    only_private = method._replace(phases=lambda net, train: (private,))
    _, up, own = trained(only_private, state, Job(0, torch.arange(12)), n)
    assert tree.equal(up.shared, state.shared)
    assert any(float(value.abs().max()) > 0 for key, value in own.items() if key.endswith("b.private"))


def test_pfedloru_personal_model_survives_a_merge() -> None:
    n, method = net(), methods.pfedloru(tau=1)
    state = method.init(n, 0)
    down, up, own = trained(method, state, Job(0, torch.arange(12)), n)
    total = method.reduce(n, state, down, [up], [1.0])
    merged = method.server(n, state, total)
    kept = methods.pfedloru(tau=float("inf")).server(n, state, total)
    assert (merged.version, kept.version) == (1, 0)
    batch = {key: value[:5] for key, value in data().items()}
    outputs = [nets.forward(n, personal_model(n, method, s, own, ()), batch) for s in (merged, kept)]
    assert torch.allclose(*outputs, rtol=0, atol=1e-12)


def test_personal_scores() -> None:
    n, method = net(), methods.pfedloru(tau=2)
    state = method.init(n, 0)
    kept = {0: trained(method, state, Job(0, torch.arange(12)), n, epochs=20)[2], 1: {}}
    tests = [(client, torch.arange(12 * client, 12 * client + 12), ()) for client in (0, 1)]
    each = personal_scores(n, method, state, data(), tests, kept.__getitem__)
    scores = {name: spread(values) for name, values in each.items()}
    for name, models in (("shared", [{}, {}]), ("personal", [kept[0], {}])):
        right, losses = [], []
        for (_, rows, _), own in zip(tests, models, strict=True):
            batch = {key: value[rows] for key, value in data().items()}
            outputs = nets.forward(n, personal_model(n, method, state, own, ()), batch)
            right.append(float((outputs.argmax(1) == batch["y"]).double().mean()))
            losses.append(float(n.losses(outputs, batch).mean()))
        assert scores[name].loss == pytest.approx(sum(losses) / 2)
        assert scores[name].mean == pytest.approx(sum(right) / 2)
        assert scores[name].bottom_decile == pytest.approx(min(right))
    assert scores["personal"].mean > scores["shared"].mean


def test_spread_is_over_clients() -> None:
    found = spread([Score(float(k), 0.1 * k, 5) for k in range(20)])
    assert found.loss == pytest.approx(9.5)
    assert found.mean == pytest.approx(0.95) and found.bottom_decile == pytest.approx(0.05) and found.clients == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: methods.pfedloru(private_rank=0), "private_rank is 0"),
        (lambda: methods.pfedloru(private_scale=0.0), "private_scale is 0"),
        (lambda: methods.pfedloru(first="last"), "first is 'last'"),
        (lambda: methods.mfedloru(nested_scale=-1.0), "nested_scale is -1"),
        (lambda: methods.mfedloru(tau=0), "tau is 0"),
    ],
)
def test_invalid_settings_raise(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", methods.METHODS)
def test_ranks_of_clients_are_used_or_rejected(name: str) -> None:
    """A method either trains clients of different ranks, or rejects a plan with such clients."""
    cell = world("fedlora", "mlp")
    made = methods.METHODS[name]()
    mixed = [with_rank(1), (), with_rank(1), ()]
    rejected = pytest.raises(ConfigError, match="rank")
    for profiles, allowed in ((mixed, made.traits.ranks != "one"), ([], made.traits.ranks != "different")):
        planned = plan(cell._replace(method=made), profiles=tuple(profiles))
        with nullcontext() if allowed else rejected:
            check(planned)

"""Laws of the algebra: reduce is additive, merge invariance, fixed points, purity, no dense sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedloru import lowrank, methods, tree
from fedloru import net as nets
from fedloru.client import local_batch, local_schedule, train
from fedloru.evaluate import shared_model
from fedloru.method import NOTHING, Down, Method, State, Total, Up
from fedloru.net import Net, mode
from fedloru.session import Job, Session
from tests.laws.cases import METHODS, NOT_MERGING, World, world

MERGING = [name for name in METHODS if name not in NOT_MERGING]
# A reset leaves the forward pass unchanged only if fresh factors have BA = 0 and the increment is s·B̄Ā.
CHANGED = ("fedloru-keep", "fedloru-published", "fedloru-exact", "fedloru-truncated", "mfedloru-exact")
# These have no variant without merges to compare with; their own tests compare the merged model with a dense mean.
CHANGED += ("flora", "fedex")
UNCHANGED = [name for name in MERGING if name not in CHANGED]


def close(x: tree.Params, y: tree.Params, tolerance: float = 1e-9) -> bool:
    return x.keys() == y.keys() and all(torch.allclose(x[k], y[k], rtol=0, atol=tolerance) for k in x)


def begin(net: Net, method: Method, state: State) -> tuple[Down, tree.Params]:
    """Return the message that a client of full rank receives, and its trainable tree."""
    down = method.down(net, state, ())
    return down, method.begin(net, down, {}, ())


def merged(cell: World, state: State) -> tree.Params:
    """Return the server's model with its factors merged."""
    tensors = shared_model(cell.net, cell.method, state)
    return tree.omit(lowrank.merge(cell.net.sites, tensors, tensors), cell.net.factors)


def some_ups(cell: World, count: int = 5) -> tuple[Down, list[Up], list[float]]:
    state = cell.method.init(cell.net, 3)
    g = torch.Generator().manual_seed(0)
    down, start = begin(cell.net, cell.method, state)
    noisy = [{k: v + torch.randn(v.shape, generator=g).to(v) for k, v in start.items()} for _ in range(count)]
    ups = [cell.method.up(cell.net, train, down, {}, 1)[0] for train in noisy]
    return down, ups, [3.0, 1.0, 7.0, 2.0, 5.0, 4.0, 6.0, 8.0, 9.0, 1.5, 2.5, 3.5][:count]


@pytest.mark.parametrize("cuts", [(1,), (4,), (1, 2, 3, 4), (2, 3)])
def test_totals_join(cell: World, cuts: tuple[int, ...]) -> None:
    down, ups, weights = some_ups(cell)
    state = cell.method.init(cell.net, 3)._replace(round=1)  # the next round merges, if the method does
    whole = cell.method.reduce(cell.net, state, down, ups, weights)
    joined = NOTHING
    for start, stop in zip((0, *cuts), (*cuts, len(ups)), strict=True):
        part = cell.method.reduce(cell.net, state, down, ups[start:stop], weights[start:stop])
        joined = joined.join(part, cell.net)
    assert joined.weight == pytest.approx(whole.weight)
    assert close(joined.sum.shared, whole.sum.shared)
    assert close(joined.stack, whole.stack)
    assert all(close(x.up.shared, y.up.shared) for x, y in zip(joined.replies, whole.replies, strict=True))


@pytest.mark.parametrize("method", UNCHANGED)
def test_merge_and_reset_keep_the_forward_pass(method: str, model: str) -> None:
    cell = world(method, model)
    batch = {key: value[:7] for key, value in cell.data.items()}
    before = cell.rounds(1)
    total = cell.train(before).total
    merged = cell.method.server(cell.net, before, total)
    assert merged.version == before.version + 1
    cycle = "interval" if "interval" in cell.method.config else "tau"
    never = methods.rebuild(cell.method.name, cell.method.config | {cycle: float("inf")})
    unmerged = never.server(cell.net, before, total)
    assert unmerged.version == before.version
    with mode(cell.net, False):
        outputs = [nets.forward(cell.net, shared_model(cell.net, cell.method, s), batch) for s in (merged, unmerged)]
    assert torch.allclose(*outputs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["fedloru-keep"])
def test_fails_for_keep_by_exactly_one_more_product(method: str, model: str) -> None:
    cell = world(method, model)
    before = cell.rounds(1)
    merged = cell.method.server(cell.net, before, cell.train(before).total)
    for site in cell.net.sites:
        product = site.scale * merged.shared[site.b].flatten(1) @ merged.shared[site.a].flatten(1)
        assert torch.allclose((merged.base[site.weight] - before.base[site.weight]).flatten(1), product, atol=1e-12)


def test_exact_merges_the_mean_of_products(model: str) -> None:
    cell = world("fedloru-exact", model)
    _, ups, weights = some_ups(cell)
    state = cell.method.init(cell.net, 3)._replace(round=1)
    after = cell.method.server(cell.net, state, cell.method.reduce(cell.net, state, Down({}), ups, weights))
    for site in cell.net.sites:
        products = [site.scale * up.shared[site.b].flatten(1) @ up.shared[site.a].flatten(1) for up in ups]
        mean = sum(w * p for w, p in zip(weights, products, strict=True)) / sum(weights)
        change = (after.base[site.weight] - state.base[site.weight]).flatten(1)
        assert torch.allclose(change, mean, rtol=0, atol=1e-9)


def test_truncation_reports_the_error_of_the_best_rank(model: str) -> None:
    cell = world("fedloru-truncated", model)
    _, ups, weights = some_ups(cell)
    state = cell.method.init(cell.net, 3)._replace(round=1)
    after = cell.method.server(cell.net, state, cell.method.reduce(cell.net, state, Down({}), ups, weights))
    errors = []
    for site in cell.net.sites:
        products = [up.shared[site.b].flatten(1) @ up.shared[site.a].flatten(1) for up in ups]
        mean = sum(w * p for w, p in zip(weights, products, strict=True)) / sum(weights)
        sigma = torch.linalg.svdvals(mean)
        errors.append(float(sigma[2:].norm() / sigma.norm()))
        change = (after.base[site.weight] - state.base[site.weight]).flatten(1)
        assert float((change - site.scale * mean).norm()) == pytest.approx(float(site.scale * sigma[2:].norm()))
    assert after.notes == {"truncation_error": pytest.approx(max(errors))}


@pytest.mark.parametrize(
    "method", [name for name in METHODS if name != "fedhm"]
)  # its messages are truncated to the rank
def test_learning_rate_0_is_a_fixed_point(cell: World) -> None:
    recipe = cell.recipe._replace(lr=0.0)
    state = cell.method.init(cell.net, 3)
    after = cell.method.server(cell.net, state, cell.train(state, recipe=recipe).total)
    # Fresh factors are not compared; that the merged ones were 0 is checked by the base.
    redrawn = cell.net.factors if after.version > state.version else ()
    trained = tree.omit(after.shared, {*cell.net.buffers, *redrawn})
    assert close(trained, tree.select(state.shared, trained), 1e-12)
    weights = [tree.omit(each.base, redrawn) for each in (after, state)]
    assert close(*weights, 1e-12)


@pytest.mark.parametrize("method", ["fedavg", "fedlora", "fedloru-paper"])
def test_one_client_is_centralised_training(method: str, model: str) -> None:
    """The reference is a plain training loop over the module: no functional call, no method, no engine."""
    cell = world(method, model)
    job = cell.jobs[2]
    state = cell.method.init(cell.net, 3)
    session = Session(cell.net, cell.method, state.base, Down(state.shared), cell.data, cell.recipe, 3, 1)
    trained_client = train(session, job)
    import copy

    module = copy.deepcopy(cell.net.model).train()
    named = dict(module.named_parameters())
    with torch.no_grad():
        for key, value in state.shared.items():
            if key in named:
                named[key].copy_(value)
    trained = [p for key, p in named.items() if key in state.shared]
    r = cell.recipe
    if r.optimizer == "sgd":
        optimizer = torch.optim.SGD(trained, r.lr, momentum=r.momentum, weight_decay=r.weight_decay)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[r.optimizer]
        optimizer = kind(trained, r.lr, betas=r.betas, eps=r.eps, weight_decay=r.weight_decay)
    plan = local_schedule(job, r, 3, 1)
    from fedloru.dropout import ClientDropout, generators

    dropout_generators = generators(3, 1, [job.client])
    for step in range(len(plan.counts)):
        batch = local_batch(cell.data, plan, step, r)
        optimizer.zero_grad()
        with ClientDropout(dropout_generators):
            loss = torch.nn.functional.cross_entropy(module(batch["x"]), batch["y"])
        loss.backward()
        if r.clip is not None:
            torch.nn.utils.clip_grad_norm_(trained, r.clip)
        optimizer.step()
    expected = {key: p.detach() for key, p in {**named, **dict(module.named_buffers())}.items() if key in state.shared}
    assert close(dict(sorted(expected.items())), trained_client.up.shared)


def test_identical_clients_are_one_client(cell: World) -> None:
    state = cell.method.init(cell.net, 3)
    down, start = begin(cell.net, cell.method, state)
    up, _ = cell.method.up(cell.net, tree.map(lambda t: t + 0.25, start), down, {}, 1)
    one = cell.method.reduce(cell.net, state, down, [up], [4.0])
    many = cell.method.reduce(cell.net, state, down, [up] * 3, [1.0, 5.0, 2.0])
    from_one, from_many = (cell.method.server(cell.net, state, total) for total in (one, many))
    assert close(merged(cell, from_one), merged(cell, from_many))
    if cell.method.name != "flexlora":  # its SVD does not determine the signs of the factors
        assert close(from_one.shared, from_many.shared) and close(from_one.base, from_many.base)


def test_inputs_are_never_mutated(cell: World) -> None:
    state = cell.rounds(1)
    inputs = [*state[3:7], cell.data, cell.net.params, cell.net.buffers, dict(cell.net.model.state_dict())]
    before = [tree.digest(each) for each in inputs]
    for engine in ("sequential", "fused"):
        outcome = cell.train(state, engine)
        cell.method.server(cell.net, state, outcome.total)
    assert [tree.digest(each) for each in inputs] == before


NARROW = ["fedavg", "fedloru", "fedloru-exact", "server-adam", "flexlora", "hetlora", "fedhm", "fedmud-aad", "fedpara"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", NARROW)
def test_dtypes_are_kept(method: str, dtype: torch.dtype) -> None:
    """Each key has the same dtype as in the model: float32 for factors, and the dtype of the weight for weights."""
    cell = world(method, "transformer", dtype)
    state, kept = cell.rounds(2), cell.net.params
    for each in (state.base, state.shared, state.increment):
        changed = {k: (v.dtype, kept[k].dtype) for k, v in each.items() if k in kept and v.dtype != kept[k].dtype}
        assert not changed and {value.dtype for value in each.values()} <= {dtype, torch.float32}


class DenseCounter(TorchDispatchMode):
    """Counts the tensors of at least ``size`` values that operations return."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.count += isinstance(out, Tensor) and out.numel() >= self.size
        return out


LOW = ["fedlora", "fedloru", "fedloru-exact", "fedloru-truncated", "flora", "fedex", "flexlora", "hetlora", "fedhm"]


@pytest.mark.parametrize("method", LOW)
def test_products_of_clients_are_never_formed_one_by_one(method: str) -> None:
    module = torch.nn.Linear(64, 64).double()
    net = nets.attach(module, rank=1, targets=["*"])
    made = METHODS[method]()
    counts = []
    for clients in (3, 12):
        state = made.init(net, 0)._replace(round=1)
        down, start = begin(net, made, state)
        ups = [Up(tree.map(torch.randn_like, start)) for _ in range(clients)]
        with DenseCounter(64 * 64) as dense:
            made.server(net, state, made.reduce(net, state, down, ups, [1.0] * clients))
        counts.append(dense.count)
    assert counts[0] == counts[1]


def test_zero_total_is_the_unit_of_join(cell: World) -> None:
    down, ups, weights = some_ups(cell, 2)
    total = cell.method.reduce(cell.net, cell.method.init(cell.net, 3), down, ups, weights)
    for joined in (NOTHING.join(total, cell.net), total.join(NOTHING, cell.net)):
        assert isinstance(joined, Total) and joined.weight == total.weight


def test_job_defaults_are_those_of_any_client() -> None:
    assert Job(0, torch.arange(3)).client_state == {} and Job(0, torch.arange(3)).profile == ()

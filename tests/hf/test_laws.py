"""The laws on tiny models of four families, with padding, dropout and activation checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedloru import lowrank, methods, tree
from fedloru import net as nets
from fedloru.data import Dataset, Partition, fetch
from fedloru.dropout import Masks, generators
from fedloru.engine import choose
from fedloru.method import Method
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.run.folder import RunFolder
from fedloru.run.loop import Run
from fedloru.run.plan import Plan
from tests.engine.cohort import Cohort, close, jobs
from tests.hf.tiny import CLASSES, FAMILIES, net, texts

pytestmark = pytest.mark.hf

ADAMW = Recipe("adamw", lr=0.02, weight_decay=0.01, batch_size=4, epochs=1)
METHODS: dict[str, Callable[[], Method]] = {
    "fedloru": lambda: methods.fedloru(recipe="paper", tau=1),
    "fedlora": methods.fedlora,
}


def cohort(family: str, method: str = "fedloru", *, checkpointing: bool = False) -> Cohort:
    return Cohort(net(family, checkpointing=checkpointing), METHODS[method](), texts(family), ADAMW)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_engines_agree(family: str, checkpointing: bool) -> None:
    made = cohort(family, checkpointing=checkpointing)
    chosen = choose("fused", made.net, made.method, made.method.init(made.net, 3), made.data, made.recipe)
    assert chosen.reason.endswith("by fold")
    oracle = made.rounds("sequential")
    assert all(close(made.rounds("fused", chunk=chunk), oracle) for chunk in (1, 3))


def test_in_bfloat16_up_to_rounding() -> None:
    """Factors are float32, but activations are rounded to three digits, differently by each engine."""
    made = cohort("llama")._replace(net=net("llama", dtype=torch.bfloat16))
    one, other = (made.train(made.method.init(made.net, 3), engine, jobs()) for engine in ("sequential", "fused"))
    ups = [tree.scale(outcome.total.sum.shared, 1 / outcome.total.weight) for outcome in (one, other)]
    assert all(torch.allclose(ups[0][key], ups[1][key], rtol=0, atol=0.01) for key in ups[0])
    assert one.loss == pytest.approx(other.loss, abs=0.01)
    assert max(float(ups[0][key].abs().max()) for key in ups[0]) > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_up_to_rounding(family: str) -> None:
    sgd = Recipe(lr=0.1, batch_size=4)
    made = Cohort(net(family, dtype=torch.float32), methods.fedlora(), texts(family), sgd)
    start = made.method.init(made.net, 3).shared
    rounded = made._replace(recipe=sgd._replace(precision="bf16"))
    runs = (made.rounds("sequential", 1), rounded.rounds("sequential", 1), rounded.rounds("fused", 1))
    full, one, other = (tree.sub(state.shared, start) for state in runs)
    for x, y in ((one, full), (other, full), (other, one)):
        assert float(tree.norm(tree.sub(x, y))) < 0.1 * float(tree.norm(full))
    assert float(tree.norm(tree.sub(one, full))) > 1e-4 * float(tree.norm(full))


def test_with_tied_weights_that_are_trained() -> None:
    """FedAvg trains Qwen3's embedding, which is also its output head, under the first of its two names."""
    from fedloru import hf
    from tests.hf.tiny import model

    made = Cohort(hf.make(model("qwen3")), methods.fedavg(), texts("qwen3"), ADAMW)
    chosen = choose("fused", made.net, made.method, made.method.init(made.net, 3), made.data, made.recipe)
    assert chosen.reason.endswith("by fold")
    one, other = made.rounds("sequential"), made.rounds("fused")
    assert close(one, other)
    assert "model.embed_tokens.weight" in one.shared and "lm_head.weight" not in one.shared
    trained = nets.load(made.net, one.shared)
    assert trained.lm_head.weight is trained.model.embed_tokens.weight
    assert not torch.equal(trained.lm_head.weight, made.net.params["model.embed_tokens.weight"])


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_recomputes_layers(family: str) -> None:
    for checkpointing in (False, True):
        made = cohort(family, checkpointing=checkpointing)
        layer = next(m for m in made.net.model.modules() if "gradient_checkpointing" in vars(type(m)) or _is_layer(m))
        inside = next(m for m in layer.modules() if isinstance(m, lowrank.LowRankLinear))
        calls = [0]
        inside.register_forward_hook(lambda *_, calls=calls: calls.__setitem__(0, calls[0] + 1))
        made.train(made.method.init(made.net, 3), "sequential", jobs(clients=[1]))  # one step on four texts
        assert calls == [2 if checkpointing else 1]


def _is_layer(module: torch.nn.Module) -> bool:
    return any("Checkpoint" in base.__name__ for base in type(module).__mro__)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_and_a_reset_do_not_change_the_scores(family: str) -> None:
    made = cohort(family, "fedlora")
    state, made_net = made.rounds("fused", count=1), made.net
    before = nets.constants(made_net, state.base) | state.shared
    drawn = lowrank.init_factors(made_net.sites, 3, 1, state.shared)
    after = before | lowrank.merge(made_net.sites, state.base, state.shared) | drawn
    with nets.mode(made_net, False), torch.no_grad():
        scores, again, first = (
            nets.forward(made_net, tensors, made.data).logits
            for tensors in (before, after, made_net.params | made_net.buffers)
        )
    torch.testing.assert_close(again, scores, rtol=0, atol=1e-7)  # norms are computed in float32
    assert not torch.allclose(scores, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_never_changes_a_gradient(family: str) -> None:
    """Neither its length nor its tokens; it does not change the dropout masks either."""
    made, data = net(family), texts(family)
    batch = fetch(data, data["length"].argsort()[:4])
    width = batch["input_ids"].shape[1]
    assert width < 9 and bool((batch["length"] < width).any())
    wider = {key: torch.nn.functional.pad(t, (0, 3), value=-100) if t.ndim > 1 else t for key, t in batch.items()}
    wider["input_ids"] = wider["input_ids"].masked_fill(torch.arange(width + 3) >= wider["length"][:, None], 7)
    assert all(
        torch.allclose(one, other, rtol=0, atol=1e-12)
        for one, other in zip(gradients(made, batch), gradients(made, wider), strict=True)
    )


def gradients(made: Net, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the loss of each text and all gradients, with nonzero factors."""
    drawn = lowrank.init_factors(made.sites, 3, 1, made.params, "both")
    leaves = {key: (made.params | drawn)[key].clone().requires_grad_() for key in made.trainable}
    masks = Masks(generators(1, 1, [0]))
    with nets.mode(made, True), masks.step(1):
        each = nets.losses(made, nets.constants(made, made.params) | leaves, batch)
        masks.backward(each.sum())
    return [each.detach(), *(leaf.grad for leaf in leaves.values() if leaf.grad is not None)]


def run(family: str, method: str, folder: RunFolder | None = None) -> Run:
    data, test = texts(family), texts(family)
    dataset = Dataset("texts", data, test, ("a", "b", "c")[:CLASSES] if "y" in data else ())
    partition = Partition("by hand", 0, tuple(job.rows for job in jobs()), (), {})
    made = methods.fedloru(recipe="paper", tau=2) if method == "fedloru" else methods.fedlora()
    made_net = net(family, dtype=torch.float32)
    return Run(Plan(made_net, made, dataset, partition, rounds=5, cohort=3, recipe=ADAMW, checkpoint_every=2), folder)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_resumed_run_equals_the_uninterrupted_one(family: str, method: str, tmp_path: Path) -> None:
    whole = run(family, method)
    rows = [{**row, "seconds": 0} for row in whole]
    folder = RunFolder.create(tmp_path / "run", {}, {})
    for row in run(family, method, folder):
        if row["round"] == 3:
            break
    again = RunFolder.open(tmp_path / "run")
    resumed = Run(whole.plan, again, again.latest("cpu", from_round=2))
    assert [{**row, "seconds": 0} for row in resumed] == rows[2:]
    assert tree.equal(resumed.state.shared, whole.state.shared) and tree.equal(resumed.state.base, whole.state.base)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_frozen_weights_are_never_sent(family: str) -> None:
    """Clients load them themselves, so a first contact sends only factors and head, and increments after merges."""
    made = run(family, "fedloru")
    sent = made.plan.net.trainable
    frozen = tree.nbytes(tree.omit(made.plan.net.params, sent))
    for row in made:
        down, up = row["bytes"]["down"], row["bytes"]["up"]
        head = tree.nbytes(tree.select(made.plan.net.params, sent - made.plan.net.factors))
        assert down["first_download"] == 0 and down["dense"] == up["dense"] == 3 * head
        assert row["down_bytes"] < frozen
    assert made.state.shared.keys() == sent
    assert made.state.version == 2

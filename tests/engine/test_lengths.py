"""Texts of different lengths: both engines draw the same batches, and crop each to its longest text."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedloru import methods
from fedloru.data import Examples
from fedloru.engine import choose
from fedloru.engine.fused.chunk import batches
from fedloru.errors import ConfigError
from fedloru.net import Batch
from fedloru.run.checks import check
from tests.engine.cohort import RECIPE, SIZES, Cohort, built, jobs, vectors
from tests.run.test_run import plan

T, TOKENS = 12, 7


class Bag(nn.Module):
    """A layer applied to every token, and the mean over the tokens that are not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(TOKENS, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        each = torch.tanh(self.fc(self.embed(ids))) * mask[..., None]
        return self.head(each.sum(1) / mask.sum(1, keepdim=True))


def texts(filler: int = 0) -> Examples:
    g = torch.Generator().manual_seed(2)
    n = sum(SIZES)
    length = torch.randint(1, T, (n,), generator=g)  # all are shorter than the tensor
    ids = torch.randint(0, TOKENS, (n, T), generator=g)
    ids[torch.arange(T) >= length[:, None]] = filler
    return {"input_ids": ids, "length": length, "y": vectors()["y"]}


def cohort(bucket: bool, data: Examples, widths: list[int] | None = None, model: type[Bag] = Bag) -> Cohort:
    def inputs(batch: Batch) -> dict[str, Tensor]:
        ids = batch["input_ids"]
        if widths is not None:
            widths.append(ids.shape[1])
        return {"ids": ids, "mask": (torch.arange(ids.shape[1]) < batch["length"][:, None]).double()}

    net = built(model, rank=2, targets=["fc"], inputs=inputs)
    return Cohort(net, methods.fedlora(), data, RECIPE._replace(bucket=bucket))


@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("chunk", [None, 2])
def test_engines_agree_on_texts(bucket: bool, chunk: int | None) -> None:
    assert cohort(bucket, texts()).agree(chunk=chunk)


class Grouped(Bag):
    """Reads tokens in groups of four, and drops a last group that is not full, so its results depend on padding."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        full = max(4, ids.shape[1] // 4 * 4)
        ids, mask = F.pad(ids, (0, max(0, 4 - ids.shape[1])))[:, :full], F.pad(mask, (0, max(0, 4 - mask.shape[1])))
        each = torch.tanh(self.fc(self.embed(ids))) * mask[:, :full, None]
        return self.head(each.sum(1) / mask.sum(1, keepdim=True))


def test_a_model_whose_results_depend_on_padding_is_not_fused() -> None:
    fine, grouped = cohort(False, texts()), cohort(False, texts(), model=Grouped)
    for each, expected in ((fine, "fused"), (grouped, "sequential")):
        state = each.method.init(each.net, 3)
        chosen = choose("auto", each.net, each.method, state, each.data, each.recipe)
        assert chosen.name == expected, chosen.reason
    assert "depend on padding" in chosen.reason


def test_padding_changes_nothing() -> None:
    first, second = (cohort(True, texts(filler)).rounds("fused") for filler in (0, 1))
    assert all(torch.equal(value, second.shared[key]) for key, value in first.shared.items())


@pytest.mark.parametrize("bucket", [False, True])
def test_both_engines_draw_the_same_batches_and_crop_them(bucket: bool) -> None:
    data, widths = texts(), list[int]()
    chosen = cohort(bucket, data, widths)
    lengths = data["length"] if bucket else None
    drawn = batches(jobs(), chosen.recipe, 3, 1, lengths=lengths)
    of_clients = [
        [int(lengths_.max()) for lengths_ in _lengths(data, drawn.rows[c], drawn.counts[c])] for c in range(4)
    ]
    state = chosen.method.init(chosen.net, 3)
    chosen.train(state, "sequential", jobs())
    assert widths == [width for client in of_clients for width in client]
    widths.clear()
    chosen.train(state, "fused", jobs(), chunk=4)
    assert widths[-drawn.counts.shape[1] :] == [
        int(data["length"][drawn.rows[drawn.counts[:, step] > 0, step]].max()) for step in range(drawn.counts.shape[1])
    ]
    assert max(widths[-drawn.counts.shape[1] :]) < T


def test_examples_without_a_length_are_not_sorted_by_it() -> None:
    with pytest.raises(ConfigError, match="the examples of 'vectors' have no length to sort by"):
        check(plan(recipe=RECIPE._replace(bucket=True)))


def _lengths(data: Examples, rows: Tensor, counts: Tensor) -> list[Tensor]:
    return [data["length"][row[:count]] for row, count in zip(rows, counts.tolist(), strict=True) if count]

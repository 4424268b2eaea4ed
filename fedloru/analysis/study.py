"""Curvature on server and clients: one spectrum each for the server's loss, client losses, and losses over subsets.

Park & Klabjan (arXiv 2409.12371) claim that the Hessian of a client's loss has a higher stable rank than the server's,
because the client has fewer examples. The server's loss is the mean over the training examples of all clients. Subsets
are the first rows of one shuffle of these, so each contains the smaller ones. All spectra of a study use the same
random directions, so differences between them come from the losses rather than from the draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.analysis.curvature import Kind, curvature
from fedloru.analysis.lanczos import draw
from fedloru.analysis.objective import Objective, first, loss, on, restrict
from fedloru.analysis.spectrum import Effort, Estimate, Spectrum, spectrum
from fedloru.data import Examples
from fedloru.errors import ConfigError, FedloruError
from fedloru.rng import gen

Record = dict[str, Any]
"""A spectrum, with the loss and the matrix it belongs to, as a JSON object."""


class Subject(NamedTuple):
    """A loss to study: its rows (n,) of the training examples, and the client if it is a client's loss."""

    name: str
    rows: Tensor
    client: int | None = None


class Part(NamedTuple):
    """One spectrum to compute: the loss, the matrix, the layer (None: the whole model), and the matrix size n."""

    subject: Subject
    kind: Kind
    layer: str | None
    n: int

    def work(self, effort: Effort) -> int:
        """Return approximately how many examples its products process."""
        return len(self.subject.rows) * effort.products(self.n)


def subjects(held: Sequence[Tensor], sizes: Sequence[int | None], clients: int, seed: int) -> list[Subject]:
    """Return the losses to study: one for each of ``sizes``, then those of ``clients`` randomly chosen clients.

    A size is a number of training examples, or None for all of them, which gives the server's loss. ``held`` has the
    training rows of each client.

    Raises:
        ConfigError: there are fewer examples or clients than requested.
    """
    rows = torch.cat(list(held)).sort().values
    problems = [
        f"got a subset of {size:,} examples, expected 1 to {len(rows):,} (the training examples of all clients), or all"
        for size in sizes
        if size is not None and not 1 <= size <= len(rows)
    ]
    if clients > len(held):
        problems.append(f"{clients} clients requested, but the configuration has {len(held)}")
    if problems:
        raise ConfigError(problems, "the study")
    order = rows[torch.randperm(len(rows), generator=gen(seed, "rank", "subset"))]
    chosen = torch.randperm(len(held), generator=gen(seed, "rank", "clients"))[:clients]
    pooled = [Subject("server" if size is None else "subset", order[:size]) for size in sizes]
    return pooled + [Subject(f"client {client}", held[client], client) for client in sorted(chosen.tolist())]


def parts(whole: Objective, chosen: Sequence[Subject], kinds: Sequence[Kind], layers: bool) -> list[Part]:
    """Return the spectra to compute for each subject and kind: the whole model's, and with ``layers`` each layer's."""
    names = [None, *layer_keys(whole)] if layers else [None]
    sizes = [tree.size(block(whole, name).params) for name in names]
    blocks = list(zip(names, sizes, strict=True))
    return [Part(subject, kind, name, n) for kind in kinds for name, n in blocks for subject in chosen]


def held(whole: Objective, data: Examples, subject: Subject) -> Objective:
    """Return the mean loss over the subject's rows of ``data``."""
    return on(whole, {key: value[subject.rows.to(value.device)] for key, value in data.items()})


def layer_keys(o: Objective) -> dict[str, list[str]]:
    """Return the parameter names of each layer, in the model's order; the layer is the part before the last dot."""
    layers: dict[str, list[str]] = {}
    for key in o.params:
        layers.setdefault(key.rpartition(".")[0] or key, []).append(key)
    return layers


def block(o: Objective, layer: str | None) -> Objective:
    """Return the same loss as a function of one layer's parameters (None: of all parameters)."""
    return o if layer is None else restrict(o, layer_keys(o)[layer])


def seconds(whole: Objective, data: Examples, todo: Sequence[Part], effort: Effort) -> float:
    """Estimate the seconds that ``todo`` takes, from timings of a product of each kind over one example and a batch."""
    batch = on(whole, {key: value[: whole.batch_size] for key, value in data.items()})
    total = 0.0
    for kind in {part.kind for part in todo}:
        fixed, full = _product_seconds(first(batch, 1), kind), _product_seconds(batch, kind)
        slope = max(full - fixed, 0.0) / batch.examples
        for part in (part for part in todo if part.kind == kind):
            rows = len(part.subject.rows)
            passes = -(-rows // whole.batch_size)
            total += effort.products(part.n) * (passes * fixed + rows * slope)
    return total


def study(
    whole: Objective,
    data: Examples,
    todo: Sequence[Part],
    effort: Effort,
    classes: int,
    tell: Callable[[Part], object],
) -> Iterator[Record]:
    """Yield a record for each part of ``todo``, and call ``tell`` with the part after every product.

    For a layer with fewer parameters than ``effort.top``, all eigenvalues are computed. A loss over fewer examples than
    ``classes`` is treated like any other, but its record is marked ``few``, since its rank mostly reflects the small
    number of examples. Leaving such clients out would bias the sample towards clients with many examples.

    Raises:
        FedloruError: a spectrum cannot be computed; a note names the matrix, the layer and the loss.
    """
    for part in todo:
        start = time.perf_counter()
        o = held(whole, data, part.subject)
        matrix = curvature(block(o, part.layer), part.kind)
        product = _CountedProduct(matrix.product, partial(tell, part))
        top = effort.top if part.layer is None else min(effort.top, part.n)
        try:
            found = spectrum(matrix._replace(product=product), effort._replace(top=top))
        except FedloruError as error:
            error.add_note(f"This was the {part.kind} of {part.layer or 'the whole model'} for {part.subject.name}.")
            raise
        about = {"examples": o.examples, "few": o.examples < classes, "loss": loss(o)}
        cost = {"products": product.calls, "seconds": time.perf_counter() - start}
        yield _part_record(part) | about | _spectrum_record(found) | cost


class _CountedProduct:
    """A product that counts its calls and reports each one."""

    def __init__(self, product: Callable[[Tensor], Tensor], report: Callable[[], object]) -> None:
        self.product, self.report, self.calls = product, report, 0

    def __call__(self, v: Tensor) -> Tensor:
        result = self.product(v)
        self.calls += 1
        self.report()
        return result


def _part_record(part: Part) -> Record:
    subject = part.subject
    return {"subject": subject.name, "client": subject.client, "curvature": part.kind, "layer": part.layer}


def _spectrum_record(found: Spectrum) -> Record:
    return {
        "parameters": found.n,
        "eigenvalues": list(found.eigenvalues),
        "squared_norm": _estimate_record(found.squared_norm),
        "stable_rank": None if found.stable_rank is None else _estimate_record(found.stable_rank),
        "density": {"nodes": found.density.nodes.tolist(), "weights": found.density.weights.tolist()},
        "probes": found.probes,
        "reached": found.reached,
    }


def _estimate_record(estimate: Estimate) -> Record:
    return dict(estimate._asdict())


def _product_seconds(o: Objective, kind: Kind) -> float:
    """Return the seconds that a product takes, after one product to warm up."""
    matrix = curvature(o, kind)
    v = draw(matrix, 0, "rank", "pace")
    matrix.product(v)
    start = time.perf_counter()
    matrix.product(v)
    return time.perf_counter() - start

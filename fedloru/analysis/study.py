"""A study of curvature: the server's loss, those of some clients and those over fewer examples, one spectrum each.

Park & Klabjan (arXiv 2409.12371) say that a client's loss has a Hessian of higher stable rank than the server's, for
the client has fewer examples. The server's loss is the mean over the training examples of all clients. Subsets are
the first rows of one shuffle of these, so that each contains the smaller ones. All spectra of a study use the same
random directions, so that figures differ by the losses more than by the draws.
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
"""A spectrum, and what it is of, as JSON holds them."""


class Subject(NamedTuple):
    """Whose loss is studied: rows (n,) of the training examples, and the client, where it is one's."""

    name: str
    rows: Tensor
    client: int | None = None


class Part(NamedTuple):
    """One spectrum to find: of whose loss, which matrix, of which layer (None: the whole model), and its size n."""

    subject: Subject
    kind: Kind
    layer: str | None
    n: int

    def work(self, effort: Effort) -> int:
        """Return about how many examples its products pass over."""
        return len(self.subject.rows) * effort.products(self.n)


def subjects(held: Sequence[Tensor], sizes: Sequence[int | None], clients: int, seed: int) -> list[Subject]:
    """Return what to study: the loss over ``sizes`` examples (None: all, the server's), then that of ``clients``.

    ``held`` has the rows that each client trains on.

    Raises:
        ConfigError: there are fewer examples or clients than asked for.
    """
    rows = torch.cat(list(held)).sort().values
    problems = [
        f"a subset of {size:,} was asked for, expected 1 to {len(rows):,}, the training examples of all clients, or all"
        for size in sizes
        if size is not None and not 1 <= size <= len(rows)
    ]
    if clients > len(held):
        problems.append(f"{clients} clients were asked for, and there are {len(held)}")
    if problems:
        raise ConfigError(problems, "the study")
    order = rows[torch.randperm(len(rows), generator=gen(seed, "rank", "subset"))]
    chosen = torch.randperm(len(held), generator=gen(seed, "rank", "clients"))[:clients]
    whole = [Subject("server" if size is None else "subset", order[:size]) for size in sizes]
    return whole + [Subject(f"client {client}", held[client], client) for client in sorted(chosen.tolist())]


def parts(whole: Objective, chosen: Sequence[Subject], kinds: Sequence[Kind], layers: bool) -> list[Part]:
    """Return the spectra to find: of each subject and kind the whole model's, and with ``layers`` each layer's."""
    names = [None, *layer_keys(whole)] if layers else [None]
    sizes = [tree.size(block(whole, name).params) for name in names]
    each = list(zip(names, sizes, strict=True))
    return [Part(subject, kind, name, n) for kind in kinds for name, n in each for subject in chosen]


def held(whole: Objective, data: Examples, subject: Subject) -> Objective:
    """Return the mean loss over the rows of ``data`` that ``subject`` holds."""
    return on(whole, {key: value[subject.rows.to(value.device)] for key, value in data.items()})


def layer_keys(o: Objective) -> dict[str, list[str]]:
    """Return the parameters of each layer, in the model's order; a layer is what a parameter's name begins with."""
    found: dict[str, list[str]] = {}
    for key in o.params:
        found.setdefault(key.rpartition(".")[0] or key, []).append(key)
    return found


def block(o: Objective, layer: str | None) -> Objective:
    """Return the same loss as a function of one layer's parameters; None: of all."""
    return o if layer is None else restrict(o, layer_keys(o)[layer])


def seconds(whole: Objective, data: Examples, todo: Sequence[Part], effort: Effort) -> float:
    """Return about how long ``todo`` takes, from the time of a product of each kind over one example and a batch."""
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
    """Yield the record of each part of ``todo``; ``tell`` hears of every product.

    Of a layer with fewer parameters than ``effort.top``, all eigenvalues are found. A loss over fewer examples than
    ``classes`` is studied like any other, and its record is marked ``few``: what it shows is how little has been
    seen. To refuse such clients would leave the rich ones in the sample.

    Raises:
        FedloruError: a spectrum cannot be found; a note says of what.
    """
    for part in todo:
        began = time.perf_counter()
        o = held(whole, data, part.subject)
        matrix = curvature(block(o, part.layer), part.kind)
        counted = _Counted(matrix.product, partial(tell, part))
        top = effort.top if part.layer is None else min(effort.top, part.n)
        try:
            found = spectrum(matrix._replace(product=counted), effort._replace(top=top))
        except FedloruError as error:
            error.add_note(f"This was the {part.kind} of {part.layer or 'the whole model'} for {part.subject.name}.")
            raise
        about = {"examples": o.examples, "few": o.examples < classes, "loss": loss(o)}
        cost = {"products": counted.calls, "seconds": time.perf_counter() - began}
        yield _of(part) | about | _figures(found) | cost


class _Counted:
    """A product that counts its calls, and tells of each."""

    def __init__(self, product: Callable[[Tensor], Tensor], tell: Callable[[], object]) -> None:
        self.product, self.tell, self.calls = product, tell, 0

    def __call__(self, v: Tensor) -> Tensor:
        result = self.product(v)
        self.calls += 1
        self.tell()
        return result


def _of(part: Part) -> Record:
    subject = part.subject
    return {"subject": subject.name, "client": subject.client, "curvature": part.kind, "layer": part.layer}


def _figures(found: Spectrum) -> Record:
    return {
        "parameters": found.n,
        "eigenvalues": list(found.eigenvalues),
        "squared_norm": _estimate(found.squared_norm),
        "stable_rank": None if found.stable_rank is None else _estimate(found.stable_rank),
        "density": {"nodes": found.density.nodes.tolist(), "weights": found.density.weights.tolist()},
        "probes": found.probes,
        "reached": found.reached,
    }


def _estimate(estimate: Estimate) -> Record:
    return dict(estimate._asdict())


def _product_seconds(o: Objective, kind: Kind) -> float:
    """Return the seconds that a product takes, once everything is warm."""
    matrix = curvature(o, kind)
    v = draw(matrix, 0, "rank", "pace")
    matrix.product(v)
    began = time.perf_counter()
    matrix.product(v)
    return time.perf_counter() - began

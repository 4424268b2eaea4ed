"""A study of gradients: those of some clients at one model, how far they agree, and the top of the server's Hessian.

A client's gradient is that of its mean loss over all its training examples. ``alignment`` says what is measured of
these; here they are taken, and held against the span of the k top eigenvectors of the server's Hessian.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor

from fedloru import tree
from fedloru.analysis import study
from fedloru.analysis.alignment import Agreement, agreements, flat, grams, shares
from fedloru.analysis.curvature import curvature
from fedloru.analysis.lanczos import largest
from fedloru.analysis.objective import Objective, first, gradient
from fedloru.analysis.spectrum import Effort
from fedloru.analysis.study import Part, Record, Subject
from fedloru.data import Examples
from fedloru.errors import ConfigError, ModelError
from fedloru.lowrank import spectra
from fedloru.report.records import ALL
from fedloru.tree import Params


def gradients(whole: Objective, data: Examples, chosen: Iterable[Subject]) -> Iterator[Params]:
    """Yield the gradient of each one's mean loss over what it holds of ``data``.

    Raises:
        ModelError: one is not finite.
    """
    for subject in chosen:
        found = gradient(study.held(whole, data, subject))
        if not all(bool(part.isfinite().all()) for part in found.values()):
            raise ModelError(
                f"the gradient of {subject.name} is not finite: the model has diverged, or a function in it has no "
                "derivative where it is used, such as a square root of 0"
            )
        yield found


def agreement(found: Sequence[Params], ranks: Iterable[int]) -> dict[str, list[Agreement]]:
    """Return how far gradients agree at each rank: over ``ALL`` weights, and at each.

    Raises:
        FedloruError: there are fewer than two gradients.
    """
    by_weight = grams(found, ranks)
    return {ALL: agreements(by_weight.values())} | {key: agreements([gram]) for key, gram in by_weight.items()}


def check(whole: Objective, clients: int, top: int) -> None:
    """Refuse to compare one client with none, or to find as many eigenvectors as there are parameters, or more.

    Raises:
        ConfigError: there is one client.
        ModelError: ``top`` is too many.
    """
    if clients < 2:
        raise ConfigError([f"agreement is between clients, and there is {clients}: take two or more"], "the study")
    n = tree.size(whole.params)
    if top >= n:
        raise ModelError(f"{top} eigenvectors were asked for, and there are {n:,} parameters: ask for fewer")


def eigenspace(server: Objective, found: Sequence[Params], top: int, seed: int, tell: Callable[[], object]) -> Record:
    """Return how gradients lie to the span of the top eigenvectors of the server's Hessian; ``tell`` hears of products.

    ``shares`` are those of each gradient in that span. ``overlap`` is the mean cos² of the principal angles between it
    and the span of all gradients: 1 if one holds the other. There are fewer eigenvectors than ``top`` where not all
    converge.
    """
    matrix = curvature(server, "hessian")

    def product(v: Tensor) -> Tensor:
        tell()
        return matrix.product(v)

    pairs = largest(matrix._replace(product=product), top, seed)
    vectors, basis = flat(found, server.params), pairs.vectors.double()
    n, k = basis.shape
    return {
        "parameters": n,
        "eigenvalues": pairs.values.tolist(),
        "shares": shares(vectors, basis),
        "share_by_chance": spectra.overlap_by_chance(n, 1, k).mean,
        "overlap": spectra.overlap(spectra.basis(vectors.T), basis),
        "overlap_by_chance": spectra.overlap_by_chance(n, len(found), k).mean,
    }


def products(whole: Objective, top: int) -> int:
    """Return about how many products ``top`` eigenvectors take."""
    return _effort(top).products(tree.size(whole.params)) if top else 0


def seconds(whole: Objective, data: Examples, server: Subject, clients: Sequence[Subject], top: int) -> float:
    """Return about how long it all takes, from the times of a batch's gradient, its singular values and products."""
    batch = first(study.held(whole, data, server), whole.batch_size)
    passed = _timed(lambda: gradient(batch)) / batch.examples * sum(len(client.rows) for client in clients)
    one = gradient(batch)
    cut = _timed(lambda: grams([one, one], ())) / 2 * len(clients)
    hessian = Part(server, "hessian", None, tree.size(whole.params))
    return passed + cut + (study.seconds(whole, data, [hessian], _effort(top)) if top else 0.0)


def _effort(top: int) -> Effort:
    return Effort(top, runs=0)


def _timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes, once everything is warm."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began

"""Gradients of clients at one model: their agreement, and their overlap with the server's top Hessian eigenvectors.

A client's gradient is the gradient of its mean loss over all its training examples. ``alignment`` defines the measures
of agreement; this module computes the gradients, and compares them with the span of the k top eigenvectors of the
server's Hessian.
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
    """Yield, for each subject in ``chosen``, the gradient of its mean loss over its rows of ``data``.

    Raises:
        ModelError: a gradient is not finite.
    """
    for subject in chosen:
        mean_gradient = gradient(study.held(whole, data, subject))
        if not all(bool(part.isfinite().all()) for part in mean_gradient.values()):
            raise ModelError(
                f"the gradient of {subject.name} is not finite: the model has diverged, or it evaluates a function "
                "where it has no derivative, such as the square root at 0"
            )
        yield mean_gradient


def agreement(found: Sequence[Params], ranks: Iterable[int]) -> dict[str, list[Agreement]]:
    """Return the agreement of gradients at each rank, over ``ALL`` weights together and for each weight.

    Raises:
        FedloruError: there are fewer than two gradients.
    """
    by_weight = grams(found, ranks)
    return {ALL: agreements(by_weight.values())} | {key: agreements([gram]) for key, gram in by_weight.items()}


def check(whole: Objective, clients: int, top: int) -> None:
    """Check that there are two or more clients, and fewer eigenvectors than parameters.

    Raises:
        ConfigError: there are fewer than two clients.
        ModelError: ``top`` is not less than the number of parameters.
    """
    if clients < 2:
        raise ConfigError([f"agreement needs two or more clients, but the configuration has {clients}"], "the study")
    n = tree.size(whole.params)
    if top >= n:
        raise ModelError(f"{top} eigenvectors requested, but the model has {n:,} parameters: request fewer")


def eigenspace(server: Objective, found: Sequence[Params], top: int, seed: int, tell: Callable[[], object]) -> Record:
    """Compare the gradients ``found`` with the span of the top eigenvectors of the server's Hessian.

    ``shares`` has the share of each gradient in that span. ``overlap`` is the mean cos² of the principal angles
    between it and the span of all gradients: 1 if one contains the other. There are fewer than ``top`` eigenvectors
    if not all converge. ``tell`` is called before every Hessian-vector product.
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
    """Return approximately how many Hessian-vector products ``top`` eigenvectors take."""
    return _effort(top).products(tree.size(whole.params)) if top else 0


def seconds(whole: Objective, data: Examples, server: Subject, clients: Sequence[Subject], top: int) -> float:
    """Estimate the total seconds from timings of a batch's gradient, its singular values and its Hessian products."""
    batch = first(study.held(whole, data, server), whole.batch_size)
    gradient_seconds = _timed(lambda: gradient(batch)) / batch.examples * sum(len(client.rows) for client in clients)
    sample = gradient(batch)
    svd_seconds = _timed(lambda: grams([sample, sample], ())) / 2 * len(clients)
    hessian = Part(server, "hessian", None, tree.size(whole.params))
    hessian_seconds = study.seconds(whole, data, [hessian], _effort(top)) if top else 0.0
    return gradient_seconds + svd_seconds + hessian_seconds


def _effort(top: int) -> Effort:
    return Effort(top, runs=0)


def _timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes, after one call to warm up."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

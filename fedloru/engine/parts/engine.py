"""Splits a cohort into contiguous parts, has workers train them, and joins the totals in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from itertools import accumulate, groupby
from typing import Any

from fedloru.engine.fused.engine import local_steps
from fedloru.engine.parts.pool import Part, Pool
from fedloru.engine.parts.worker import Blueprint, Round
from fedloru.engine.setup import Chosen, Setup
from fedloru.engine.task import Outcome, Task
from fedloru.errors import ConfigError, counted
from fedloru.method import NOTHING, Method
from fedloru.methods import rebuild
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.tree import Params

Build = Callable[[Setup], Chosen]


def distribute(setup: Setup, name: str, pool: Pool, auto: Build, builds: Mapping[str, Build]) -> Chosen:
    """Return an engine whose workers train with the engine that ``auto`` chooses in this process.

    Args:
        setup: what the engine is built from.
        name: the name of the engine; "" is that of the engine of the workers.
        pool: the workers, which are started.
        auto: chooses the engine of the workers.
        builds: the function that builds an engine, by its name.

    Raises:
        ConfigError: the method cannot be made again from its name and settings.
        FedloruError: the workers cannot be started, or cannot make the model or the method.
    """
    _check_method(setup.method)
    net = pool.share_net(setup.net)
    inner = auto(setup)
    chunk = inner.clients if inner.name == "fused" else setup.chunk
    pool.open(_blueprint(setup._replace(chunk=chunk), net, builds[inner.name], pool))
    base = _SharedBase(pool)

    def run(task: Task) -> Outcome:
        split_jobs = split(task.jobs, pool.parts, task.recipe)
        parts = [Part([job.client for job in jobs], pool.pack(jobs)) for jobs in split_jobs]
        results = pool.train(base.reference(task.state.base), pool.pack(_common(task)), parts, task.round)
        for result in results:
            for profile, traffic in result.accounts.items():
                task.channel.accounts[profile] += traffic
            if task.observe is not None:
                for message in result.messages:
                    task.observe(*message)
        return _joined([result.outcome for result in results], setup.net)

    reason = f"{counted(pool.parts, 'worker')}, each with the engine {inner.name!r} ({inner.reason})"
    return Chosen(run, name or inner.name, reason, inner.clients, pool.parts)


def split(jobs: Sequence[Job], count: int, recipe: Recipe) -> list[list[Job]]:
    """Split ``jobs``, in their order, into at most ``count`` parts with about the same number of local steps."""
    steps = [max(1, local_steps(len(job.rows), recipe)) for job in jobs]
    middles = [2 * end - own for end, own in zip(accumulate(steps), steps, strict=True)]
    numbered = zip((middle * count // (2 * sum(steps)) for middle in middles), jobs, strict=True)
    return [[job for _, job in group] for _, group in groupby(numbered, key=lambda each: each[0])]


class _SharedBase:
    """The base as the pool shares it, again only after a merge."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._base: Params | None = None
        self._reference: Any = None

    def reference(self, base: Params) -> Any:
        if self._base is not base:
            self._base, self._reference = base, self._pool.share(base)
        return self._reference


def _blueprint(setup: Setup, net: Any, build: Build, pool: Pool) -> Blueprint:
    return Blueprint(
        net,
        pool.pack(setup.net.params),
        pool.pack(setup.net.buffers),
        setup.method.name,
        setup.method.config,
        pool.pack(setup.state),
        pool.share(setup.data),
        setup.recipe,
        setup.chunk,
        setup.path,
        build,
        next(iter(setup.data.values())).device.type,
    )


def _common(task: Task) -> Round:
    channel = task.channel
    return Round(
        task.state._replace(base={}),
        task.recipe,
        task.seed,
        channel.run,
        channel.codec,
        channel.measured,
        task.observe is not None,
    )


def _joined(outcomes: Sequence[Outcome], net: Net) -> Outcome:
    """Return the outcome of all parts, joined in order."""
    total = reduce(lambda x, y: x.join(y, net), (outcome.total for outcome in outcomes), NOTHING)
    states = {client: state for outcome in outcomes for client, state in outcome.client_state.items()}
    loss = sum(outcome.loss * outcome.total.weight for outcome in outcomes) / total.weight
    return Outcome(total, states, loss)


def _check_method(method: Method) -> None:
    """Raise ``ConfigError`` if ``method`` differs from what its name and settings describe."""
    again = rebuild(method.name, method.config)
    fields = [field for field in Method._fields if field not in ("name", "config", "in_run")]
    changed = [field for field in fields if _described(getattr(method, field)) != _described(getattr(again, field))]
    if changed:
        raise ConfigError(
            [
                f"a worker makes the method {method.name!r} again from its name and settings, but {', '.join(changed)} "
                "of this one was replaced: declare it as a method in a module, with @fedloru.methods.method"
            ],
            "engine.workers",
        )


_SETTING = (int, float, str, type(None))


def _described(value: Any) -> Any:
    """Return a function as its code and the settings that it is bound to, which are the same if it is made again."""
    if isinstance(value, partial):
        return [_described(item) for item in (value.func, *value.args, *value.keywords.values())]
    if code := getattr(value, "__code__", None):
        return [
            code,
            *(cell.cell_contents for cell in value.__closure__ or () if isinstance(cell.cell_contents, _SETTING)),
        ]
    return value if isinstance(value, _SETTING) else type(value)

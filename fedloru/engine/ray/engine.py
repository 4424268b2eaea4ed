"""Splits a cohort into contiguous parts, has workers train them, and joins the totals in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from itertools import accumulate, chain, groupby
from typing import Any

from fedloru import lowrank
from fedloru.client import Job
from fedloru.engine.fused.engine import local_steps
from fedloru.engine.ray.cluster import NAME
from fedloru.engine.ray.packing import pack
from fedloru.engine.ray.pool import Part, Pool
from fedloru.engine.ray.worker import Blueprint, Round
from fedloru.engine.setup import Chosen, Setup
from fedloru.engine.task import Outcome, Task
from fedloru.errors import ConfigError
from fedloru.method import NOTHING, Method
from fedloru.methods import rebuild
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.tree import Params

Build = Callable[[Setup], Chosen]


def distribute(setup: Setup, auto: Build, builds: Mapping[str, Build]) -> Chosen:
    """Return an engine whose workers train with the engine that ``auto`` chooses in this process.

    ``builds`` has the function that builds an engine, by its name.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: the method cannot be made again from its name and settings.
        ModelError: the model cannot be sent to other processes.
        FedloruError: Ray cannot be reached, or its workers cannot load the model or the method.
    """
    _check_method(setup.method)
    device = next(iter(setup.data.values())).device
    pool = Pool(setup.workers, device)
    net = pool.put_net(_bare(setup.net))
    inner = auto(setup)
    chunk = inner.clients if inner.name == "fused" else setup.chunk
    pool.open(_blueprint(setup._replace(chunk=chunk), net, builds[inner.name], device.type))
    sent = _SentBase(pool)

    def run(task: Task) -> Outcome:
        parts = [Part([job.client for job in jobs], pack(jobs)) for jobs in split(task.jobs, pool.parts, task.recipe)]
        results = pool.train(sent.reference(task.state.base), pool.put(_common(task)), parts, task.round)
        for result in results:
            for profile, traffic in result.accounts.items():
                task.channel.accounts[profile] += traffic
            if task.observe is not None:
                for message in result.messages:
                    task.observe(*message)
        return _joined([result.outcome for result in results], setup.net)

    reason = f"{pool.parts} worker{'s' * (pool.parts > 1)}, each with the engine {inner.name!r} ({inner.reason})"
    return Chosen(run, "ray", reason, inner.clients, pool.parts)


def split(jobs: Sequence[Job], count: int, recipe: Recipe) -> list[list[Job]]:
    """Split ``jobs``, in their order, into at most ``count`` parts with about the same number of local steps."""
    steps = [max(1, local_steps(len(job.rows), recipe)) for job in jobs]
    middles = [2 * end - own for end, own in zip(accumulate(steps), steps, strict=True)]
    numbered = zip((middle * count // (2 * sum(steps)) for middle in middles), jobs, strict=True)
    return [[job for _, job in group] for _, group in groupby(numbered, key=lambda each: each[0])]


class _SentBase:
    """The base in the object store of Ray, which is sent again only after a merge."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._base: Params | None = None
        self._reference: Any = None

    def reference(self, base: Params) -> Any:
        if self._base is not base:
            self._base, self._reference = base, self._pool.put(pack(base))
        return self._reference


def _bare(net: Net) -> Net:
    """Return ``net`` with its module on the CPU, and without its other tensors."""
    devices = {tensor.device.type for tensor in chain(net.model.parameters(), net.model.buffers())}
    model = net.model if devices <= {"cpu"} else lowrank.shallow_copy(net.model, trained=False).to("cpu")
    return net._replace(model=model, params={}, buffers={})


def _blueprint(setup: Setup, net: Any, build: Build, device: str) -> Blueprint:
    return Blueprint(
        net,
        pack(setup.net.params),
        pack(setup.net.buffers),
        setup.method.name,
        setup.method.config,
        pack(setup.state),
        pack(setup.data),
        setup.recipe,
        setup.chunk,
        setup.path,
        build,
        device,
    )


def _common(task: Task) -> Round:
    channel = task.channel
    return Round(
        pack(task.state._replace(base={})),
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
            NAME,
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

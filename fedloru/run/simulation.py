"""The carrier of simulations: all clients are present, and an engine trains them in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch

from fedloru import tree
from fedloru.data import size
from fedloru.data.client_tests import client_tests
from fedloru.engine import choose
from fedloru.engine.task import Outcome, Task
from fedloru.errors import ModelError, TrainingError
from fedloru.method import State
from fedloru.personal import entries, personal_scores, spreads
from fedloru.run.carrier import Assignment, Delivery, Invited, Personal
from fedloru.run.client_state import ClientStore, InMemory, OnDisk
from fedloru.run.folder import RunFolder
from fedloru.run.plan import Plan, profile
from fedloru.run.sampling import scored, tested
from fedloru.session import Job
from fedloru.wire import Channel


class Simulation:
    """The clients of ``plan``, which starts at ``first``, in this process."""

    status = ""
    scores_start = True

    def __init__(self, plan: Plan, first: State) -> None:
        self.plan = plan
        self.engine = choose(
            plan.engine,
            plan.net,
            plan.method,
            first,
            plan.dataset.train,
            plan.recipe,
            chunk=plan.chunk,
            path=plan.path,
            workers=plan.workers,
        )
        self._channel = Channel(plan.net, plan.method.name, tree.digest(plan.net.params), plan.codec, plan.round_trip)
        self._clients: ClientStore = InMemory()
        self._folder: RunFolder | None = None

    def open(self, folder: RunFolder | None) -> None:
        """Keep the client states in ``folder``, if there is one."""
        if folder is not None:
            self._folder, self._clients = folder, OnDisk(folder.path / "clients", self.plan.device)

    def present(self) -> Sequence[int]:
        """Return all clients."""
        return range(self.plan.clients)

    def invitations(self, cohort: int) -> int:
        """Return ``cohort``: all clients reply."""
        return cohort

    def held(self, clients: Sequence[int]) -> Mapping[int, int | None]:
        """Return {}: no client says what it holds."""
        return {}

    def carry(self, assignment: Assignment) -> Delivery:
        """Train the cohort with the engine."""
        plan, channel = self.plan, self._channel
        channel.accounts.clear()
        for invited in assignment.cohort:
            channel.sync(invited.sync, assignment.state, invited.profile)
        clients = [invited.client for invited in assignment.cohort]
        before = assignment.state.round
        jobs = [Job(c, plan.partition.train[c], self._clients.load(c, before), profile(plan, c)) for c in clients]
        jobs.sort(key=lambda job: job.profile)
        outcome = self._train(Task(assignment.state, jobs, assignment.recipe, plan.seed, channel, assignment.observe))
        self._clients.save(assignment.round, outcome.client_state, self._folder.oldest if self._folder else 0)
        return Delivery(outcome, clients, dict(channel.accounts))

    def personal(self, state: State, invite: Callable[[Sequence[int]], Sequence[Invited]]) -> Personal:
        """Score a sample of clients, the same in every round, on their test examples."""
        plan = self.plan
        sample = scored(plan, range(plan.clients)) if self._tests else []
        tests = [(client, self._tests_of(client), profile(plan, client)) for client in sample]
        tests = [test for test in tests if len(test[1])]
        if not tests:
            return Personal()
        data = plan.dataset.train if plan.has_own_tests else plan.dataset.test
        scores = personal_scores(
            plan.net,
            plan.method,
            state,
            data,
            tests,
            lambda client: self._clients.load(client, state.round),
            plan.chosen_metrics,
        )
        by_client = {
            plan.partition.label(client): entry for (client, *_), entry in zip(tests, entries(scores), strict=True)
        }
        spread = spreads(scores) if plan.has_own_tests or "personal" in scores else None
        return Personal(spread, notes={"client_scores": by_client})

    @cached_property
    def _tests(self) -> Sequence[torch.Tensor]:
        """The rows of each client's test examples: of the training examples if it has its own, or of the test set."""
        plan, test = self.plan, self.plan.dataset.test
        if plan.has_own_tests or not plan.eval_clients:
            return plan.partition.test
        return client_tests(plan.dataset, plan.partition, plan.seed, tested(plan, size(test)))

    def _tests_of(self, client: int) -> torch.Tensor:
        """Return the rows that ``client`` is tested on."""
        rows = self._tests[client]
        used = tested(self.plan, len(rows), client) if self.plan.has_own_tests else None
        return rows if used is None else rows[used]

    def _train(self, task: Task) -> Outcome:
        try:
            return self.engine.run(task)
        except TrainingError as error:
            names = self.plan.partition.names
            if names is None or error.client is None:
                raise
            raise TrainingError(
                error.problem, client=error.client, round=error.round, name=names[error.client]
            ) from error
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"round {task.round} does not fit into the memory of {self.plan.device} ({self.engine.reason}): "
                f"lower the engine's chunk, or the batch size (now {task.recipe.batch_size})"
            ) from error

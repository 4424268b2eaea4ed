"""The training loop: sample a cohort, send it what it is missing, train it, update the server, evaluate, record.

A round is a function of the state before it, so a run can stop after any round and resume bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from typing import Any

import torch
from torch import nn

from fedloru import lowrank, tree
from fedloru import net as nets
from fedloru.client import Job
from fedloru.engine import choose
from fedloru.engine.fused.engine import forward_keys
from fedloru.engine.task import Outcome, Task
from fedloru.errors import FedloruError, ModelError
from fedloru.evaluate import shared_model
from fedloru.method import State
from fedloru.recipe import at_round
from fedloru.run import increments, profiles
from fedloru.run.checkpoint import Snapshot
from fedloru.run.checks import check
from fedloru.run.client_state import ClientStore, InMemory, OnDisk
from fedloru.run.diagnostics import UpdateStatistics
from fedloru.run.folder import RunFolder
from fedloru.run.plan import Plan, cohort, on_device, profile, references
from fedloru.run.record import Round, Row, record
from fedloru.run.summary import summarise
from fedloru.settings import calling
from fedloru.tree import Params
from fedloru.weight_reads import check_readers
from fedloru.wire import Channel, Ledger, Traffic


class Run:
    """A run of ``plan``: iterating over it trains the rounds, and yields one row per round.

    With a ``folder``, every row, and its checkpoint if one is due, is on disk before the row is yielded. The summary
    and the model are written at the end. If a round fails or is interrupted, the last completed round is checkpointed
    first. During the iteration, no other run can write to the folder.
    """

    def __init__(self, plan: Plan, folder: RunFolder | None = None, snapshot: Snapshot | None = None) -> None:
        check(plan)
        self.plan = plan = on_device(plan)
        self.folder = folder
        self.rows: list[Row] = folder.rows(snapshot.state.round if snapshot else 0) if folder else []
        first = plan.method.init(plan.net, plan.seed)
        check_readers(plan.net, plan.dataset.train, forward_keys(plan.net, plan.method, first))
        self._first = first
        self._channel = Channel(plan.net, plan.method.name, tree.digest(plan.net.params), plan.codec, plan.round_trip)
        ledger = Ledger(plan.net.sites, first, first_download=plan.sends_base)
        self.last = snapshot or Snapshot(first, Traffic(), ledger.save())
        self._clients: ClientStore = InMemory()
        self.engine = choose(
            plan.engine,
            plan.net,
            plan.method,
            first,
            plan.dataset.train,
            plan.recipe,
            chunk=plan.chunk,
            path=plan.path,
        )

    @property
    def state(self) -> State:
        """The server's state after the last completed round."""
        return self.last.state

    @property
    def tensors(self) -> Params:
        """The shared model after the last completed round, with factors that are not merged yet as separate tensors."""
        return shared_model(self.plan.net, self.plan.method, self.state)

    def model(self) -> nn.Module:
        """Return a plain copy of the shared model, with the current factors merged into its weights."""
        return nets.load(self.plan.net, self.tensors)

    def summary(self) -> dict[str, Any]:
        """Return the results of the run so far, in the format of ``summary.json``."""
        return summarise(self.plan, self.rows, self.last.traffic, self.engine)

    def __iter__(self) -> Generator[Row, None, None]:
        """Train the remaining rounds.

        Raises:
            RunFolderError: another run is writing to the folder, or has written to it since this run was created.
        """
        if self.folder is None:
            yield from self._rounds()
            return
        with self.folder.alone():
            self.folder.go_back(self.state.round, self.state.version)
            self._clients = OnDisk(self.folder.path / "clients", self.plan.device)
            yield from self._rounds()
            self.finish(self.folder)

    def finish(self, folder: RunFolder) -> None:
        """Write the results of the run after its last round."""
        folder.finish(self.summary(), dict(self.model().state_dict()))

    def _rounds(self) -> Generator[Row, None, None]:
        saved = self.state.round
        try:
            while self.state.round < self.plan.rounds:
                with calling(" or ".join(references(self.plan)), partial(_failed, self.state.round + 1)):
                    row, after = self._round()
                if self.folder:
                    self._keep_increment(self.folder, after.state)
                    self.folder.append(row)
                self.last = after
                self.rows.append(row)
                due = row["round"] % self.plan.checkpoint_every == 0 or row["round"] == self.plan.rounds
                if self.folder and due:
                    self.folder.save(self.last)
                    saved = row["round"]
                yield row
        except BaseException:
            if self.folder and saved < self.state.round == len(self.rows):
                self.folder.save(self.last)
            raise

    def _keep_increment(self, folder: RunFolder, state: State) -> None:
        if self.plan.keeps_increments and state.increment:
            merged = lowrank.increment(self.plan.net.sites, state.increment)
            increments.save(folder.increments, state.version, merged)

    def _round(self) -> tuple[Row, Snapshot]:
        start = time.perf_counter()
        plan, before = self.plan, self.last
        round = before.state.round + 1
        clients = cohort(plan, round)
        ledger = before.restore_ledger(plan.net.sites)
        self._channel.accounts.clear()
        for client in clients:
            self._channel.sync(ledger.owed(client, before.state), before.state, profile(plan, client))
            ledger.delivered(client, before.state.version)
        jobs = sorted((self._job(client) for client in clients), key=lambda job: job.profile)
        recipe = at_round(plan.recipe, round, plan.rounds)
        updates = UpdateStatistics(plan.net) if plan.diagnostics else None
        observe = updates.add if updates else None
        outcome = self._train(Task(before.state, jobs, recipe, plan.seed, self._channel, observe))
        state = plan.method.server(plan.net, before.state, outcome.total)
        ledger.record(state)
        after = Snapshot(state, before.traffic + self._channel.traffic, ledger.save())
        self._clients.save(round, outcome.client_state, self.folder.oldest if self.folder else 0)
        done = Round(before, after, clients, outcome, recipe.rate, updates)
        row = record(plan, self._first, done, self._clients.load)
        row |= profiles.of_round(plan, clients, self._channel.accounts)
        row["seconds"] = time.perf_counter() - start
        return row, after

    def _job(self, client: int) -> Job:
        rows = self.plan.partition.train[client]
        return Job(client, rows, self._clients.load(client, self.state.round), profile(self.plan, client))

    def _train(self, task: Task) -> Outcome:
        try:
            return self.engine.run(task)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"round {task.round} does not fit into the memory of {self.plan.device} ({self.engine.reason}): "
                f"lower the engine's chunk, or the batch size (now {task.recipe.batch_size})"
            ) from error


def _failed(round: int, problem: str) -> FedloruError:
    return FedloruError(f"round {round}: {problem}")

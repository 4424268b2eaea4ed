"""The training loop: sample a cohort, send it what it is missing, train it, update the server, evaluate, record.

A round is a function of the state before it, so a run can stop after any round and resume bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

from torch import nn

from fedloru import lowrank
from fedloru import net as nets
from fedloru.engine import Chosen
from fedloru.engine.fused.engine import forward_tensors
from fedloru.engine.task import Observer
from fedloru.errors import ConfigError, FedloruError, decomposing
from fedloru.evaluate import shared_model
from fedloru.method import State
from fedloru.recipe import Recipe, at_round
from fedloru.run import budget, checkpoint, increments, profiles
from fedloru.run.best import Best, best, check_metric, ending
from fedloru.run.callbacks import Follower, callbacks_of, following
from fedloru.run.carrier import Assignment, Carrier, Invited, Personal
from fedloru.run.checkpoint import Snapshot
from fedloru.run.checks import check
from fedloru.run.diagnostics import UpdateStatistics
from fedloru.run.folder import BEST_MODEL, MODEL, RunFolder
from fedloru.run.plan import Plan, on_device, profile, references, title
from fedloru.run.record import Round, Row, evaluation, is_evaluated, latest_scores, record, scores_clients, start_row
from fedloru.run.sampling import sampled
from fedloru.run.simulation import Simulation
from fedloru.run.summary import results, summarise
from fedloru.settings import calling
from fedloru.tree import Params
from fedloru.weight_reads import check_readers
from fedloru.wire import Ledger, Traffic
from fedloru.wire.grid import on_grid
from fedloru.wire.traffic import joined


class Run:
    """A run of ``plan``: iterating over it trains the rounds, and yields one row per round.

    ``carrier`` returns what brings the rounds to the clients, from the plan on its device and the initial state; by
    default they are simulated.

    With a ``folder``, every row, and its checkpoint if one is due, is on disk before the row is yielded. The summary
    and the model are written at the end. If a round fails or is interrupted, the last completed round is checkpointed
    first. During the iteration, no other run can write to the folder.

    ``callbacks`` are functions that are called with the row of every round, and ``Callback`` objects.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder | None = None,
        snapshot: Snapshot | None = None,
        carrier: Callable[[Plan, State], Carrier] = Simulation,
        callbacks: Iterable[Follower] = (),
    ) -> None:
        check(plan)
        self.callbacks = callbacks_of(callbacks)
        self.plan = plan = on_device(plan)
        self.folder = folder
        self.rows: list[Row] = folder.rows(snapshot.state.round if snapshot else 0) if folder else []
        self.start: Row | None = folder.start() if folder else None
        first = plan.method.init(plan.net, plan.seed)
        for each in dict.fromkeys(plan.profiles):
            plan.method.down(plan.net, first, each)  # a method may refuse a profile
        check_readers(plan.net, plan.dataset.train, list(forward_tensors(plan.net, plan.method, first)))
        self._first = self._best = first
        self._interval = budget.interval(plan, first)
        ledger = Ledger(plan.net.sites, first, first_download=plan.sends_base, codec=plan.codec)
        self.last = snapshot or Snapshot(first, Traffic(), ledger.save())
        if plan.keep_best and folder is not None:
            self._best = folder.best(self.last.state.round, plan.device) or first
        self.carrier = carrier(plan, first)

    @property
    def engine(self) -> Chosen:
        """The engine that trains the clients."""
        return self.carrier.engine

    @property
    def state(self) -> State:
        """The server's state after the last completed round."""
        return self.last.state

    @property
    def tensors(self) -> Params:
        """The shared model after the last completed round, with factors that are not merged yet as separate tensors."""
        return shared_model(self.plan.net, self.plan.method, self.state)

    @property
    def best(self) -> Best | None:
        """The best evaluation so far, by ``eval.best``; None before the first one."""
        return best(self.plan, self._evaluated)

    @property
    def best_state(self) -> State:
        """The server's state after the round of the best evaluation.

        Raises:
            ConfigError: the run does not keep it.
        """
        if not self.plan.keep_best:
            raise ConfigError(["the run does not keep its best model: set keep_best (eval.keep_best = true)"])
        return self._best

    @property
    def ended(self) -> str | None:
        """Why no further round is trained, such as that the score has not improved; None if there is one to train."""
        return ending(self.plan, self._evaluated)

    @property
    def client_scores(self) -> list[Row]:
        """The scores of clients, one row for each round, client and model (shared or personal), such as for pandas."""
        return [
            {"round": row["round"], "client": client, "model": model, "units": entry["units"], **entry[model]}
            for row in self._evaluated
            for client, entry in row.get("client_scores", {}).items()
            for model in ("shared", "personal")
            if isinstance(entry.get(model), dict)
        ]

    @property
    def _evaluated(self) -> list[Row]:
        return [*([self.start] if self.start else ()), *self.rows]

    def model(self, *, best: bool = False) -> nn.Module:
        """Return a plain copy of the shared model, with the current factors merged into its weights.

        With ``best``, it is that of the best evaluation.

        Raises:
            ConfigError: the best model is not kept.
        """
        state = self.best_state if best else self.state
        return nets.load(self.plan.net, shared_model(self.plan.net, self.plan.method, state))

    def __repr__(self) -> str:
        """Return what is trained, the completed rounds, the last scores and the folder in one line."""
        scores = [f"{name.removeprefix('test_')} {value:.4g}" for name, value in latest_scores(self.rows).items()]
        place = [f"folder {str(self.folder.path)!r}"] if self.folder else []
        done = f"round {self.state.round:,} of {self.plan.rounds:,}"
        return f"Run({', '.join([title(self.plan), done, *scores, *place])})"

    def summary(self) -> dict[str, Any]:
        """Return the results of the run so far, in the format of ``summary.json``."""
        found = summarise(self.plan, self.rows, self.last.traffic, self.engine)
        return found | results(self.plan, self._evaluated)

    def __iter__(self) -> Generator[Row, None, None]:
        """Train the remaining rounds.

        Raises:
            RunFolderError: another run is writing to the folder, or has written to it since this run was created.
        """
        if self.folder is None:
            self.carrier.open(None)
            self._score_start()
            with following(self.callbacks, self):
                yield from self._rounds()
            return
        with self.folder.alone():
            self.folder.go_back(self.state.round, self.state.version)
            self.carrier.open(self.folder)
            self._score_start()
            with following(self.callbacks, self):
                yield from self._rounds()
                self.finish(self.folder)

    def finish(self, folder: RunFolder) -> None:
        """Write the results of the run after its last round."""
        models = {MODEL: self.model()} | ({BEST_MODEL: self.model(best=True)} if self.plan.keep_best else {})
        folder.finish(self.summary(), {name: dict(model.state_dict()) for name, model in models.items()})

    def _score_start(self) -> None:
        """Evaluate the model before training, unless that has been done, and check that the plan can use its scores."""
        if self.start is None:
            began = time.perf_counter()
            asked = self.carrier.scores_start and self.plan.eval_clients
            personal = self.carrier.personal(self._first, lambda _: []) if asked else Personal()
            self.start = start_row(self.plan, self._first, personal)
            self.start["seconds"] = time.perf_counter() - began
            check_metric(self.plan, self.start)
            if self.folder:
                self.folder.save_start(self.start)

    def _rounds(self) -> Generator[Row, None, None]:
        saved = self.state.round
        try:
            while not self.ended:
                round = self.state.round + 1
                with (
                    calling(" or ".join(references(self.plan)), partial(_failed, round)),
                    decomposing(self.plan.recipe.rate, round),
                ):
                    row, after = self._round()
                if self.folder:
                    self._keep_increment(self.folder, after.state)
                self._keep_best(row, after)
                if self.folder:
                    self.folder.append(row)
                self.last = after
                self.rows.append(row)
                due = row["round"] % self.plan.checkpoint_every == 0 or self.ended
                if self.folder and due:
                    self.folder.save(self.last)
                    saved = row["round"]
                for callback in self.callbacks:
                    callback.on_round(row)
                yield row
        except BaseException:
            if self.folder and saved < self.state.round == len(self.rows):
                self.folder.save(self.last)
            raise

    def _keep_increment(self, folder: RunFolder, state: State) -> None:
        if self.plan.keeps_increments and state.increment:
            merged = lowrank.increment(self.plan.net.sites, state.increment)
            increments.save(folder.increments, state.version, merged)

    def _keep_best(self, row: Row, after: Snapshot) -> None:
        """Keep the state after ``row`` if it is the best, and remove those that no checkpoint can go back to."""
        if not self.plan.keep_best:
            return
        rows = [*self._evaluated, row]
        found = best(self.plan, rows)
        if found is None or found.round != row["round"]:
            return
        self._best = after.state
        if self.folder:
            saved = [best(self.plan, rows[: round + 1]) for round in checkpoint.rounds(self.folder.checkpoints)]
            self.folder.save_best(after, {each.round for each in saved if each})

    def _round(self) -> tuple[Row, Snapshot]:
        start = time.perf_counter()
        plan, before = self.plan, self.last
        round = before.state.round + 1
        ledger = before.restore_ledger(plan.net.sites, plan.codec)
        recipe = at_round(plan.recipe, round, plan.rounds)
        updates = UpdateStatistics(plan.net) if budget.is_diagnosed(plan, self._interval, round) else None
        assignment = self._assignment(ledger, recipe, updates.add if updates else None)
        delivery = self.carrier.carry(assignment)
        for client in delivery.clients:
            ledger.delivered(client, before.state.version)
        state = plan.method.server(plan.net, before.state, delivery.outcome.total)
        if plan.round_trip:
            state = on_grid(plan.net.sites, before.state, state, plan.codec)
        ledger.record(state)
        scores = evaluation(plan, state) if is_evaluated(plan, round) else {}
        personal, last = Personal(), ending(plan, [*self._evaluated, {"round": round, **scores}]) is not None
        if scores_clients(plan, round, last=last):
            personal = self.carrier.personal(state, partial(self._invite, ledger, state))
        accounts = joined(delivery.accounts, personal.accounts)
        spent = sum(accounts.values(), Traffic())
        after = Snapshot(state, before.traffic + spent, ledger.save())
        done = Round(
            before, after, list(delivery.clients), delivery.outcome, recipe.rate, scores, updates, personal.scores
        )
        row = record(plan, self._first, done)
        row |= profiles.of_round(plan, delivery.clients, accounts) | dict(delivery.notes) | dict(personal.notes)
        row["seconds"] = time.perf_counter() - start
        return row, after

    def _assignment(self, ledger: Ledger, recipe: Recipe, observe: Observer | None) -> Assignment:
        """Return the next round, with the cohort sampled from the clients that are present."""
        plan, state = self.plan, self.state
        order = partial(sampled, plan, state.round + 1)
        invite = partial(self._invite, ledger, state)
        chosen = order(self.carrier.present(), self.carrier.invitations(plan.cohort))
        return Assignment(state, recipe, invite(sorted(chosen)), order, invite, observe)

    def _invite(self, ledger: Ledger, state: State, clients: Sequence[int]) -> list[Invited]:
        """Return ``clients`` with what they need to reach ``state``, after correcting the ledger by what they hold."""
        for client, version in self.carrier.held(clients).items():
            if version is None:
                ledger.lost(client)
            else:
                ledger.delivered(client, version)
        return [Invited(client, profile(self.plan, client), ledger.owed(client, state)) for client in clients]


def _failed(round: int, problem: str) -> FedloruError:
    return FedloruError(f"round {round}: {problem}")

"""The carrier of federations: it brings the rounds of a run to real clients, over Flower."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from flwr.proto.node_pb2 import NodeInfo

from fedloru import tree
from fedloru.engine import Chosen, Outcome, Task
from fedloru.engine.task import Collector
from fedloru.errors import ConfigError
from fedloru.flower import scores
from fedloru.flower.attendance import attendance, score_table
from fedloru.flower.bases import Bases
from fedloru.flower.guests import Guests
from fedloru.flower.names import check_names, write_names
from fedloru.flower.post import Exchange, Post
from fedloru.flower.protocol import MAX_TEXT, PROTOCOL, Hello
from fedloru.flower.replies import largest
from fedloru.flower.requests import Requests
from fedloru.flower.roster import Roster
from fedloru.flower.round import Open, Round
from fedloru.flower.sightings import Sightings
from fedloru.flower.site import shapes_of
from fedloru.method import State, Up
from fedloru.personal import spreads
from fedloru.run.carrier import Assignment, Delivery, Invited, Personal
from fedloru.run.federation import Federation
from fedloru.run.folder import RunFolder
from fedloru.run.plan import Plan
from fedloru.run.sampling import scored
from fedloru.wire import Channel
from fedloru.wire.traffic import joined

SCORE_SECONDS = 600.0
"""The maximum number of seconds that the server waits for scores."""


def _not_here(task: Task) -> Outcome:
    raise ConfigError(["the clients of a federation train on their own machines, not in an engine"])


ELSEWHERE = Chosen(
    _not_here, "flower", "each client of the federation trains by itself, and Flower carries the messages"
)
HERE = Chosen(_not_here, "sequential", "clients of a federation in this process train one after another")
"""What trains clients in this process: the code of the sequential engine, so such a run resumes as a simulation."""


class FlowerCarrier:
    """Brings the rounds of ``plan``, which starts at ``first``, to the clients that are connected to ``grid``.

    Args:
        plan: the run; its training examples are only used to build the model.
        first: the initial state.
        grid: Flower's access to the clients.
        who: returns the index of the client of a node of the grid, if it is enrolled.
        roster: the enrolled clients.
        rules: how rounds are carried out.
        config: the configuration for the clients: all sections but those in ``reading``, and how data is read.
        reading: the settings of [data], without paths.
        pause: the number of seconds between looks at what has arrived; 0 if all clients are in this process.
        check: is called while the server waits, and may raise an error.
    """

    scores_start = False

    def __init__(
        self,
        plan: Plan,
        first: State,
        *,
        grid: Exchange,
        who: Callable[[NodeInfo], int | None],
        roster: Roster,
        rules: Federation,
        config: Mapping[str, Any],
        reading: Mapping[str, Any],
        pause: float = 0.2,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan, self.roster, self.rules = plan, roster, rules
        self.engine = ELSEWHERE if pause else HERE
        self._folder: RunFolder | None = None
        self._bases = Bases(plan.net.sites, first)
        self._requests = Requests(plan, tree.digest(plan.net.params), self._bases, self._oldest)
        self._terms = self._hello(first, config, reading)
        # Messages of other rounds or profiles may be larger than those of the first round of the default profile.
        grid.bound(4 * largest(self._requests.spec(()), 1, 0) + MAX_TEXT)

        def check_and_look() -> None:
            check()
            self._sightings.look(self.guests)

        self._sightings = Sightings(roster)
        self.guests = Guests(
            Post(grid, who),
            roster,
            lambda client, name: self._terms.model_copy(update={"client": client, "name": name}),
            max_examples=rules.max_examples,
            pause=pause,
            patient=pause > 0,
            check=check_and_look,
        )
        self._last: dict[int, int] = {}
        self._round: Round | None = None
        self._late: dict[str, Open] = {}

    @property
    def status(self) -> str:
        """What the server waits for: clients, or their replies."""
        round = self._round
        return self.guests.status if round is None else round.status

    def open(self, folder: RunFolder | None) -> None:
        """Continue from the rounds in ``folder``, if there is one.

        Raises:
            RunFolderError: the run has other clients than the federation, or a file of the folder is damaged.
        """
        self._folder = folder
        if folder is None:
            return
        check_names(folder.path, self.roster)
        rows = folder.all_rows()
        self._bases.open(folder.path, rows[-1]["version"] if rows else 0)
        for row in rows:
            self._last |= dict.fromkeys(row["cohort"], row["round"])
        write_names(folder.path, self.roster)

    def present(self) -> Sequence[int]:
        """Return the clients that are connected and not busy; wait until there are as many as a round needs."""
        size = self._size
        needed = min(self.rules.clients or self.rules.quorum_of(size), self._enrolled)
        return self.guests.wait(needed, self._enrolled, self._busy)

    @property
    def _enrolled(self) -> int:
        return max(1, sum(not client.removed for client in self.roster.clients))

    @property
    def _size(self) -> int:
        """The number of replies with which a round is complete."""
        return min(self.plan.cohort, self._enrolled)

    def invitations(self, cohort: int) -> int:
        """Return the number of clients to invite, to have ``cohort`` replies."""
        return cohort + round(cohort * self.rules.oversample)

    def held(self, clients: Sequence[int]) -> Mapping[int, int | None]:
        """Return what clients hold that have said so since the last round."""
        stated = [client for client in clients if client in self.guests.stated and client in self.guests.known]
        self.guests.stated -= set(stated)
        greetings = {client: self.guests.known[client].greeting for client in stated}
        return {client: self._bases.recognized(each.held, each.base) for client, each in greetings.items()}

    def carry(self, assignment: Assignment) -> Delivery:
        """Train the cohort, or as many clients as the quorum requires."""
        self._bases.hash(assignment.state)
        done = Round(assignment, self.guests, self._requests, self.rules, self._size, self._last, self._late)
        self._round = done
        done.carry()
        self._round = None
        outcome = self._collected(assignment, done)
        clients = sorted(done.replies)
        self._last |= dict.fromkeys(clients, assignment.round)
        self._late = done.late
        self._sightings.note_round(done)
        if self._folder is not None:
            write_names(self._folder.path, self.roster)
        return Delivery(outcome, clients, done.accounts, {"federation": attendance(done, self.guests.name)})

    def personal(self, state: State, invite: Callable[[Sequence[int]], Sequence[Invited]]) -> Personal:
        """Ask clients that share scores for those of the model after ``state``."""
        there = self.guests.update() if self.rules.scores else []
        busy = self._busy()
        sharing = [client for client in there if self.guests.known[client].greeting.tests and client not in busy]
        self._bases.hash(state)
        seconds = min(self.rules.deadline, SCORE_SECONDS)
        invited = invite(scored(self.plan, sharing))
        found, spent = scores.ask(state, invited, self.guests, self._requests, self._last, seconds)
        accounts = joined(*({each.profile: spent[each.client]} for each in invited if each.client in spent))
        if not found:
            return Personal(None, accounts)
        self._sightings.note_scores(found, self.guests)
        notes = {"client_scores": score_table(found, spent, self.guests.name)}
        return Personal(spreads(scores.table(found)), accounts, notes)

    def _collected(self, assignment: Assignment, done: Round) -> Outcome:
        """Return the total of all replies, in the order of profiles and clients, as the engines do."""
        plan, run = self.plan, self._requests.run
        channel = Channel(plan.net, plan.method.name, run, plan.codec)
        task = Task(assignment.state, (), assignment.recipe, plan.seed, channel, assignment.observe)
        collector = Collector(plan.net, plan.method, task)
        for reply in sorted(done.replies.values(), key=lambda reply: (reply.profile, reply.client)):
            down = done.downs[reply.profile].down
            down = down._replace(shared=tree.to(down.shared, plan.device), aux=tree.to(down.aux, plan.device))
            up = Up(*(tree.to(part, plan.device) for part in reply.up))
            collector.collect(down, [up], [reply.weight], [reply.loss])
        return collector.outcome()

    def _oldest(self) -> int:
        return self._folder.oldest if self._folder else 0

    def _busy(self) -> set[int]:
        """Return the clients that may still be working on a request of an earlier round."""
        now = time.monotonic()
        nodes = {client: guest.node for client, guest in self.guests.known.items()}
        gone = [sent for sent, asked in self._late.items() if nodes.get(asked.node.client) != asked.node]
        self.guests.post.cancel(gone)
        for sent in gone:
            del self._late[sent]
        return {asked.node.client for asked in self._late.values() if now < asked.until}

    def _hello(self, first: State, config: Mapping[str, Any], reading: Mapping[str, Any]) -> Hello:
        plan, scaling = self.plan, self.plan.dataset.scaling
        return Hello(
            protocol=PROTOCOL,
            fedloru=version("fedloru"),
            flwr=version("flwr"),
            run=self._requests.run,
            base=self._bases.hash(first),
            rounds=plan.rounds,
            client=0,
            name="",
            clients=plan.clients,
            config=dict(config),
            reading=dict(reading) | ({"task": plan.dataset.task} if "task" in reading else {}),
            classes=list(plan.dataset.classes),
            shapes=shapes_of(plan.dataset),
            mean=list(scaling.mean) if scaling else [],
            std=list(scaling.std) if scaling else [],
            sends_base=plan.sends_base,
            scores=self.rules.scores,
        )

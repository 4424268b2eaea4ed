"""The carrier of federations: it brings the rounds of a run to real clients, over Flower."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from flwr.proto.node_pb2 import NodeInfo

from fedloru import tree
from fedloru.engine import Chosen, Outcome, Task
from fedloru.engine.task import Collector
from fedloru.errors import ConfigError, RunFolderError, quoted
from fedloru.files import write_atomic
from fedloru.flower import scores
from fedloru.flower.attendance import attendance, score_table
from fedloru.flower.bases import Bases
from fedloru.flower.guests import Guests
from fedloru.flower.post import Exchange, Post
from fedloru.flower.protocol import MAX_TEXT, PROTOCOL, Hello
from fedloru.flower.replies import largest
from fedloru.flower.requests import Requests
from fedloru.flower.roster import Roster, Seen
from fedloru.flower.round import Open, Round
from fedloru.flower.site import shapes_of
from fedloru.method import State, Up
from fedloru.personal import spreads
from fedloru.reading import UnreadableError, read_json
from fedloru.run.carrier import Assignment, Delivery, Invited, Personal
from fedloru.run.federation import Federation
from fedloru.run.folder import RunFolder
from fedloru.run.plan import Plan, scored
from fedloru.wire import Channel
from fedloru.wire.traffic import joined

NAMES = "clients.json"
"""The file with the names of the clients, in a run folder."""
LOOK = 30.0
"""The number of seconds after which what the server sees is written again."""
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
        self.guests = Guests(
            Post(grid, who),
            roster,
            lambda client, name: self._terms.model_copy(update={"client": client, "name": name}),
            max_examples=rules.max_examples,
            pause=pause,
            patient=pause > 0,
            check=lambda: self._look(check),
        )
        self._last: dict[int, int] = {}
        self._round: Round | None = None
        self._late: dict[str, Open] = {}
        self._seen: dict[str, Seen] = roster.seen()
        self._looked: tuple[float, Any] = 0.0, None

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
        self._check_names(folder.path / NAMES)
        rows = folder.all_rows()
        self._bases.open(folder.path, rows[-1]["version"] if rows else 0)
        for row in rows:
            self._last |= dict.fromkeys(row["cohort"], row["round"])
        self._write_names()

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
        self._see(None)
        self._round = done
        done.carry()
        self._round = None
        outcome = self._collected(assignment, done)
        clients = sorted(done.replies)
        self._last |= dict.fromkeys(clients, assignment.round)
        self._late = done.late
        self._see(done)
        self._write_names()
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
        for client, each in found.items():
            best = each.personal or each.shared
            self._update(client, loss=best.loss, accuracy=best.accuracy)
        self.roster.see(self._seen)
        notes = {"client_scores": score_table(found, spent, self.guests.name)}
        return Personal(spreads(scores.table(found)), accounts, notes)

    def close(self, reason: str, finished: bool, seconds: float = 10.0) -> None:
        """Say goodbye to the clients that are connected."""
        self.guests.dismiss(reason, finished, seconds)

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
            reading=dict(reading),
            classes=list(plan.dataset.classes),
            shapes=shapes_of(plan.dataset),
            mean=list(scaling.mean) if scaling else [],
            std=list(scaling.std) if scaling else [],
            sends_base=plan.sends_base,
            scores=self.rules.scores,
        )

    def _look(self, check: Callable[[], None]) -> None:
        """Write what the server sees whenever it changes, and every ``LOOK`` seconds."""
        check()
        at, before = self._looked
        now = dict(self.guests.known), dict(self.guests.problems)
        if now != before or time.monotonic() - at > LOOK:
            self._looked = time.monotonic(), now
            self._see(None)

    def _see(self, done: Round | None) -> None:
        """Write what the server sees of all clients, for `fedloru clients`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for client in range(len(self.roster.clients)):
            guest = self.guests.known.get(client)
            self._update(client, online=guest is not None, problem=self.guests.problems.get(client, ""))
            if guest is not None:
                greeting = guest.greeting
                self._update(client, last_seen=now, fedloru=greeting.fedloru, examples=greeting.examples)
                self._update(client, version=greeting.held)
        for client, traffic in (done.by_client if done else {}).items():
            before = self._seen[self.guests.name(client)]
            up, down = before.up_bytes + traffic.total("up"), before.down_bytes + traffic.total("down")
            self._update(client, up_bytes=up, down_bytes=down)
        if done is not None:
            for client in done.replies:
                self._update(client, round=done.assignment.round, version=done.assignment.state.version)
        self.roster.see(self._seen)

    def _update(self, client: int, **changes: Any) -> None:
        name = self.guests.name(client)
        self._seen[name] = self._seen.get(name, Seen()).model_copy(update=changes)

    def _check_names(self, path: Path) -> None:
        """Check that the clients of the rounds in the folder have the same index here: others may have followed."""
        try:
            before = read_json(path, list)
        except FileNotFoundError:
            return
        except UnreadableError as error:
            raise RunFolderError(f"{path} is damaged ({error}): remove it; it is written again") from error
        names = [client.name for client in self.roster.clients]
        for client, (name, here) in enumerate(zip_longest(before, names[: len(before)])):
            if name != here:
                raise RunFolderError(
                    f"the run in {path.parent} is that of another federation: its client {client} is {quoted(name)}, "
                    f"but here {quoted(here) if here else 'not enrolled'}; name the directory of its federation (--dir)"
                )

    def _write_names(self) -> None:
        """Write the names of the clients to the run folder, by index."""
        if self._folder is not None:
            names = [client.name for client in self.roster.clients]
            write_atomic(self._folder.path / NAMES, json.dumps(names).encode())

"""A client of a federation: it answers the messages of the server with its own data, and keeps what it learns.

The transport is not part of it: ``client_app`` connects it to Flower.
"""

from __future__ import annotations

import hashlib
import logging
import time
from importlib.metadata import version

from fedloru import lowrank, tree, wire
from fedloru.client import train
from fedloru.data import size
from fedloru.errors import FedloruError, TrainingError, WireError, traced
from fedloru.evaluate import Score, evaluate
from fedloru.flower.protocol import (
    PROTOCOL,
    Greeting,
    Hello,
    Order,
    Question,
    Refusal,
    Report,
    Scored,
    Scores,
    differing,
)
from fedloru.flower.site import Site, Source, build, check_weights
from fedloru.flower.state import TERMS, Held, StateFolder
from fedloru.flower.terms import Terms, forbidden_code, too_much, used_up
from fedloru.method import Down, Profile
from fedloru.net import constants, lowered
from fedloru.recipe import at_round
from fedloru.session import Job, Session
from fedloru.tree import Params

log = logging.getLogger(__name__)


def answer_hash(text: bytes, tensors: bytes) -> str:
    """Return the hash of a request, which its answer contains."""
    return hashlib.blake2b(text + tensors, digest_size=16).hexdigest()


class Member:
    """The client with the state directory ``folder``, the data of ``source`` and the limits ``terms``.

    The data and the model are loaded at the first message and kept in memory.
    """

    def __init__(self, folder: StateFolder, source: Source, terms: Terms) -> None:
        self.folder, self.source, self.terms = folder, source, terms
        self._hello: Hello | None = None
        self._site: Site | None = None
        self._base: Held | None = None
        self._specs: dict[Profile, wire.MessageSpec] = {}

    def hello(self, hello: Hello) -> Greeting | Refusal:
        """Accept the terms of a federation, or refuse them with a reason."""
        try:
            site = self._accept(hello)
        except FedloruError as error:
            return Refusal(reason=str(error)[:4000], leave=True)
        if isinstance(site, str):
            return Refusal(reason=site, leave=True)
        self.folder.write(TERMS, hello.model_dump())
        held = self._held()
        tests = size(site.tests) if self.terms.scores and site.tests else 0
        return Greeting(
            fedloru=version("fedloru"),
            flwr=version("flwr"),
            held=None if held is None else held.version,
            base="" if held is None else held.hash,
            examples=len(site.rows),
            tests=tests,
        )

    def train(self, order: Order, text: bytes, tensors: bytes) -> tuple[Report, bytes] | Refusal:
        """Train on an order: the text of the request, and the bytes of its sync and its down message.

        The reply to the same request is computed once, and sent again if the request is repeated.
        """
        answers = answer_hash(text, tensors)
        earlier = self.folder.answered(answers)
        if earlier is None and (refused := used_up(self.terms, self.folder.usage(), len(tensors))):
            return self._refusal(refused)
        start = time.perf_counter()
        hello, site = self._federation()
        base = self._synchronized(order, tensors[: order.sync])
        if earlier is not None:
            return earlier
        spec = self._spec(order)
        header, down = wire.decode_down(tensors[order.sync :], spec, round=order.round, version=order.version)
        plan, store = site.plan, self.folder.private(site.plan.device)
        job = Job(order.client, site.rows, store.load(order.client, order.last), order.profiled)
        recipe = at_round(site.recipe, order.round, hello.rounds)
        down = _on_device(down, plan.device)._replace(base=base)
        base = lowered(plan.net, base, recipe.precision)
        session = Session(plan.net, plan.method, base, down, plan.dataset.train, recipe, header.seed, order.round)
        done = train(session, job)
        if done.client_state:
            store.save(order.round, {order.client: done.client_state}, min(order.oldest, order.last))
        reply = wire.encode_up(
            plan.net,
            done.up,
            down,
            method=plan.method.name,
            run=hello.run,
            client=order.client,
            round=order.round,
            version=order.version,
            codec=plan.codec,
            numbers={"weight": float(len(site.rows)), "loss": done.loss},
        )
        seconds = time.perf_counter() - start
        report = Report(answers=answers, held=order.version, base=order.base, seconds=seconds)
        self.folder.answer(report, reply)
        self.folder.count(1, len(tensors) + len(reply))
        return report, reply

    def evaluate(self, question: Question, text: bytes, tensors: bytes) -> Scores | Refusal:
        """Score the model at the start of a round on the client's own test examples."""
        _, site = self._federation()
        if not (self.terms.scores and site.tests):
            return self._refusal("this client does not share scores (--share-scores)")
        if refused := used_up(self.terms._replace(rounds=None), self.folder.usage(), len(tensors)):
            return self._refusal(refused)
        base = self._synchronized(question, tensors[: question.sync])
        spec = self._spec(question)
        _, down = wire.decode_down(tensors[question.sync :], spec, round=question.round, version=question.version)
        down = _on_device(down, site.plan.device)._replace(base=base)
        own = self.folder.private(site.plan.device).load(question.client, question.last)
        self.folder.count(0, len(tensors))
        return Scores(
            answers=answer_hash(text, tensors),
            held=question.version,
            base=question.base,
            shared=self._score(site, base, down, question, {}),
            personal=self._score(site, base, down, question, own) if own else None,
        )

    def _accept(self, hello: Hello) -> Site | str:
        """Return what the client trains, or why it does not take part."""
        if hello.protocol != PROTOCOL:
            return f"the server speaks protocol {hello.protocol}, this client {PROTOCOL}: install the same version"
        if other := differing(hello.fedloru, hello.flwr):
            return f"the server runs {other}, which this client runs: install the same version"
        if refused := forbidden_code(self.terms, hello):
            return refused
        if hello != self._hello or self._site is None:
            site = build(self.source, hello)
            check_weights(site, hello)
            if refused := too_much(self.terms, site.epochs):
                return refused
            self._hello, self._site, self._base, self._specs = hello, site, None, {}
        if refused := used_up(self.terms, self.folder.usage(), 0):
            return refused
        return self._site

    def _federation(self) -> tuple[Hello, Site]:
        """Return the terms and what the client trains; a new process reads the terms from the state directory."""
        if self._hello is None or self._site is None:
            accepted = self._accept(self.folder.terms)
            if isinstance(accepted, str):
                raise WireError(accepted)
        assert self._hello is not None and self._site is not None
        return self._hello, self._site

    def _held(self) -> Held | None:
        """Return the whole base, with its version and its hash; None if there is none."""
        hello, site = self._federation()
        if self._base is None:
            plan = site.plan
            initial = plan.method.init(plan.net, plan.seed).base
            held = self.folder.held(hello.run)
            if held is None and site.run == hello.run:
                held = Held(0, hello.base, {})
            if held is None:
                return None
            old = lowrank.adapted_keys(plan.net.sites, initial) if held.weights else []
            base = tree.omit(initial, old) | tree.to(held.weights, plan.device)
            if wire.base_hash(plan.net.sites, base) != held.hash:
                log.warning("the weights in %s do not have their hash, so they are requested again", self.folder.path)
                return None
            self._base = held._replace(weights=base)
        return self._base

    def _synchronized(self, order: Order, message: bytes) -> Params:
        """Return the base at the version of an order, after applying the sync message, if there is one.

        The new base is on disk before this returns. Increments that the base already has are not applied again.

        Raises:
            WireError: the base does not reach the version and the hash of the order.
        """
        held = self._held()
        version, found, base = held or (None, "", {})
        hello, site = self._federation()
        sites = site.plan.net.sites
        if message:
            header, sync = wire.decode_sync(message, self._spec(order), round=order.round)
            if not sync.base:
                sync = wire.since(sync, -1 if version is None else version)
            base = wire.catch_up(sites, base, _sync_on_device(sync, site.plan.device))
            version, found = header.version, wire.base_hash(sites, base)
        if (version, found) != (order.version, order.base):
            raise WireError(
                f"round {order.round} needs the base of version {order.version} with the hash {order.base}, but this "
                f"client holds version {version} with the hash {found or 'none'}; the server sends the difference"
            )
        if message:
            whole = site.run != hello.run
            weights = base if whole else tree.select(base, lowrank.adapted_keys(sites, base))
            self.folder.hold(hello.run, Held(order.version, found, weights))
        self._base = Held(order.version, found, base)
        return base

    def _spec(self, order: Order) -> wire.MessageSpec:
        """Return what the messages to a client of the profile of an order contain."""
        hello, site = self._federation()
        profile = order.profiled
        if profile not in self._specs:
            self._specs[profile] = wire.MessageSpec(site.plan.net, site.plan.method, hello.run, profile)
        return self._specs[profile]

    def _score(self, site: Site, base: Params, down: Down, question: Question, own: Params) -> Scored:
        """Return the score of the model with which the client would start the round, given its own tensors."""
        net, method = site.plan.net, site.plan.method
        start = method.begin(net, down, own, question.profiled)
        tensors = constants(net, base) | (start if method.expand is None else method.expand(net, start, down))
        score: Score = evaluate(net, tensors, site.tests, metrics=site.plan.chosen_metrics)
        return Scored(
            loss=score.loss, accuracy=score.accuracy, units=score.units, f1=score.f1, metrics=dict(score.metrics)
        )

    def _refusal(self, reason: str) -> Refusal:
        held = self._held()
        return Refusal(reason=reason, held=held.version if held else None, base=held.hash if held else "")

    def failure(self, error: Exception) -> Refusal:
        """Return the refusal that reports an exception to the server, and log it."""
        reason = _reason(error)
        log.error("%s", reason)
        try:
            return self._refusal(reason[:4000])
        except Exception:  # what the client holds cannot be read, so it holds nothing that the server can build on
            return Refusal(reason=reason[:4000])


def _reason(error: Exception) -> str:
    if isinstance(error, TrainingError):  # the server adds the round and the name of the client
        return error.problem
    if isinstance(error, FedloruError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}. No incomplete file is kept. Fix this; the client continues by itself"
    return f"the model or its data failed: {traced(error)}"


def _on_device(down: Down, device: str) -> Down:
    return down._replace(shared=tree.to(down.shared, device), aux=tree.to(down.aux, device))


def _sync_on_device(sync: wire.Sync, device: str) -> wire.Sync:
    increments = tuple((number, tree.to(factors, device)) for number, factors in sync.increments)
    return sync._replace(increments=increments, base=tree.to(sync.base, device))

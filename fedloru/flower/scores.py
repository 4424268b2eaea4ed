"""Asks clients for the scores of the model on their own test examples."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fedloru.errors import WireError
from fedloru.evaluate import Score
from fedloru.flower import protocol
from fedloru.flower.envelope import EVALUATE
from fedloru.flower.guests import Guest, Guests
from fedloru.flower.protocol import Question, Refusal, Scored, Scores
from fedloru.flower.requests import Request, Requests
from fedloru.method import State
from fedloru.run.carrier import Invited
from fedloru.wire import Traffic

log = logging.getLogger(__name__)


def ask(
    state: State,
    invited: Sequence[Invited],
    guests: Guests,
    requests: Requests,
    last: Mapping[int, int],
    seconds: float,
) -> tuple[dict[int, Scores], dict[int, Traffic]]:
    """Return the scores of the clients that reply within ``seconds``, with the model after ``state``, and the bytes."""
    spent: dict[int, Traffic] = {}
    open: dict[str, tuple[Guest, Request]] = {}
    for each in invited:
        guest = guests.known[each.client]
        request = requests.make(Question, state, each, last.get(each.client, 0))
        with suppress(WireError):  # it has left
            sent = guests.post.send(guest.node, EVALUATE, request.content, f"{state.round} scores")
            spent[each.client], open[sent] = request.traffic, (guest, request)
    found: dict[int, Scores] = {}
    names = {sent: guests.name(guest.node.client) for sent, (guest, _) in open.items()}
    end = time.monotonic() + seconds
    while open and time.monotonic() < end:
        for answer in guests.post.collect(list(open), names.__getitem__):
            guest, request = open.pop(answer.request)
            client = guest.node.client
            if answer.content is None:
                continue
            try:
                content = protocol.answer(answer.content.text, Scores, guests.name(client))
                if isinstance(content, Refusal):
                    if content.base:
                        guests.hold(client, content.held, content.base)
                    raise WireError(content.reason)
                if content.answers != request.answers:
                    raise WireError("it answers another question")
                if not all(score.units for score in (content.shared, content.personal) if score):
                    raise WireError("it states a score over no example")
            except WireError as error:
                log.warning("round %d: the scores of %s are not used: %s", state.round, guests.name(client), error)
                continue
            found[client] = content
            guests.hold(client, content.held, content.base)
        guests.update()
        open = {sent: pair for sent, pair in open.items() if guests.known.get(pair[0].node.client) == pair[0]}
        time.sleep(guests.pause if open else 0)
    return found, spent


def table(found: dict[int, Scores]) -> dict[str, list[Score]]:
    """Return scores by kind, in client order; a client without a personal model counts with the shared one."""
    ordered = [found[client] for client in sorted(found)]
    scores = {"shared": [score_of(each.shared) for each in ordered]}
    if any(each.personal for each in ordered):
        scores["personal"] = [score_of(each.personal or each.shared) for each in ordered]
    return scores


def score_of(scored: Scored) -> Score:
    """Return the score that a client states."""
    return Score(**scored.model_dump(exclude={"kind"}))

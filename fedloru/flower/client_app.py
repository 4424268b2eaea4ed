"""A ``Member`` as a Flower ClientApp: it answers ``query.hello``, ``train`` and ``evaluate``.

Every problem becomes an answer that says what is wrong, never an exception, so that the server can name it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedloru.flower import protocol
from fedloru.flower.envelope import EVALUATE, HELLO, TRAIN, Enclosed, enclosed, record
from fedloru.flower.member import Member
from fedloru.flower.protocol import Goodbye, Hello, Order, Question, Refusal, parse

SERVER = "the server"
log = logging.getLogger(__name__)

Respond = Callable[[str, Enclosed], Enclosed]
"""Answers a request, given its kind."""


def client_app(respond: Respond) -> ClientApp:
    """Return the ClientApp that answers with ``respond``."""
    app = ClientApp()

    def reply(kind: str, message: Message) -> Message:
        return Message(record(respond(kind, enclosed(message, SERVER))), reply_to=message)

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return reply(HELLO, message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return reply(TRAIN, message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return reply(EVALUATE, message)

    return app


def in_process(member: Member) -> Respond:
    """Return a function that answers requests in this process, with the model and the data in memory."""
    return partial(respond, member)


def respond(member: Member, kind: str, request: Enclosed) -> Enclosed:
    """Answer a request; any failure becomes a refusal, which tells the server the reason."""
    try:
        return _KINDS[kind](member, request)
    except Exception as error:  # the model, the data and the disk may raise anything
        return Enclosed(protocol.text(member.failure(error)))


def farewell(request: Enclosed) -> Enclosed:
    """Answer a ``Goodbye``, for which neither the model nor the data is needed.

    Raises:
        WireError: it is not valid.
    """
    goodbye = parse(request.text, Goodbye, SERVER)
    return Enclosed(protocol.text(Refusal(reason=goodbye.reason, leave=True, finished=goodbye.finished)))


def _hello(member: Member, request: Enclosed) -> Enclosed:
    if protocol.is_goodbye(request.text):
        return farewell(request)
    return Enclosed(protocol.text(member.hello(parse(request.text, Hello, SERVER))))


def _train(member: Member, request: Enclosed) -> Enclosed:
    done = member.train(parse(request.text, Order, SERVER), request.text, request.tensors)
    if isinstance(done, Refusal):
        log.warning("refused: %s", done.reason)
        return Enclosed(protocol.text(done))
    report, tensors = done
    return Enclosed(protocol.text(report), tensors)


def _evaluate(member: Member, request: Enclosed) -> Enclosed:
    question = parse(request.text, Question, SERVER)
    return Enclosed(protocol.text(member.evaluate(question, request.text, request.tensors)))


_KINDS: dict[str, Callable[[Member, Enclosed], Enclosed]] = {HELLO: _hello, TRAIN: _train, EVALUATE: _evaluate}

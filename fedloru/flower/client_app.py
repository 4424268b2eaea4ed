"""A ``Member`` as a Flower ClientApp: it answers ``query.hello``, ``train`` and ``evaluate``.

Every problem becomes an answer that says what is wrong, never an exception, so that the server can name it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedloru.flower import protocol
from fedloru.flower.envelope import Enclosed, enclosed, record
from fedloru.flower.member import Member
from fedloru.flower.protocol import Hello, Order, Question, Refusal, parse

SERVER = "the server"
log = logging.getLogger(__name__)

Answer = Callable[[Enclosed], Enclosed]


def client_app(member: Member) -> ClientApp:
    """Return the ClientApp of a client."""
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return _reply(member, message, lambda request: _hello(member, request))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _reply(member, message, lambda request: _train(member, request))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _reply(member, message, lambda request: _evaluate(member, request))

    return app


def _reply(member: Member, message: Message, answer: Answer) -> Message:
    try:
        content = answer(enclosed(message, SERVER))
    except Exception as error:  # whatever fails here, the server is told
        content = Enclosed(protocol.text(member.failure(error)))
    return Message(record(content), reply_to=message)


def _hello(member: Member, request: Enclosed) -> Enclosed:
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

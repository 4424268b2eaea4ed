"""A client that takes part in a federation: it connects, answers, and connects again, until the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flwr.app import Context, Message, RecordDict

from fedloru.errors import ConfigError, UnreachableError, WireError
from fedloru.flower import protocol
from fedloru.flower.client_app import SERVER, Respond, client_app
from fedloru.flower.envelope import Enclosed, enclosed
from fedloru.flower.node import Connection, NotActivatedError, Place
from fedloru.flower.probe import check_reachable
from fedloru.flower.protocol import Refusal
from fedloru.flower.state import NODE, StateFolder

FIRST, LONGEST = 1.0, 60.0
"""The number of seconds before the client connects again, at first and at most; it doubles."""
OTHER = 40.0
"""The number of seconds for which a client tries again if its key is in use: until then, the server notices that an
earlier process was killed."""
LEAVE = 1.0
"""How long a client that refuses the terms stays, in seconds: the answers of clients that have left are dropped."""
MAX_MESSAGE = 2**35
"""The largest message that is received, in bytes; there is no smaller bound before the model is known."""

log = logging.getLogger(__name__)


def join(
    place: Place, folder: StateFolder, respond: Respond, say: Callable[[str], None], sleep: Callable[[float], None]
) -> None:
    """Take part in the federation of the server at ``place`` until it has finished.

    Args:
        place: the server, and the credentials for it.
        folder: the state directory; no other process can use it meanwhile.
        respond: answers the requests of the server.
        say: called with each line for the user.
        sleep: waits for a number of seconds.

    Raises:
        CredentialError: the server does not know the key, or its certificate cannot be trusted.
        ConfigError: the client does not accept the federation, or the server does not accept the client.
        FedloruError: the server does not speak TLS, or runs another version.
        RunFolderError: another client uses the state directory.
    """
    with folder.alone():
        say(f"Connecting to {place.address}.")
        delay, refused_since = FIRST, None
        while True:
            try:
                check_reachable(place.host, place.port, place.ca)
                with Connection(place, folder.node) as connection:
                    folder.write(NODE, {"id": connection.id})
                    say(f"Connected to {place.address}.")
                    delay, refused_since = FIRST, None
                    if _serve(connection, respond, say):
                        return
            except NotActivatedError:
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > OTHER:
                    raise
                say("The server does not accept this key yet; trying again.")
            except UnreachableError as error:
                say(f"{error}; trying again in {delay:g} s.")
            sleep(delay)
            delay = min(2 * delay, LONGEST)


def _serve(connection: Connection, respond: Respond, say: Callable[[str], None]) -> bool:
    """Answer the requests of the server; return whether the federation has finished.

    Raises:
        ConfigError: this client does not take part.
    """
    answered: list[Enclosed] = []

    def remembered(kind: str, request: Enclosed) -> Enclosed:
        answered.append(respond(kind, request))
        return answered[-1]

    app = client_app(remembered)
    while not connection.gone.is_set():
        message = connection.receive(MAX_MESSAGE)
        if message is None:
            continue
        start = time.monotonic()
        context = Context(
            run_id=message.metadata.run_id,
            node_id=connection.id,
            node_config={},
            state=RecordDict(),
            run_config={},
        )
        answered.clear()
        reply = app(message, context)
        connection.send(reply, time.monotonic() - start)
        left = _refusal(answered[-1].text) if answered else None
        if left is not None and left.finished:
            say(left.reason)
            return True
        if left is not None and left.leave:
            connection.gone.wait(LEAVE)
            raise ConfigError([left.reason], "the federation")
        say(_described(message, answered[-1] if answered else Enclosed(b""), time.monotonic() - start))
    say("The server no longer knows this client; connecting again.")
    return False


def _refusal(text: bytes) -> Refusal | None:
    try:
        answer = protocol.answer(text, Refusal, SERVER)
    except WireError:
        return None
    return answer


def _described(message: Message, answer: Enclosed, seconds: float) -> str:
    """Return a line for the user that says what was done."""
    refusal = _refusal(answer.text)
    received = len(enclosed(message, SERVER).tensors)
    what = message.metadata.message_type
    if refusal is not None:
        return f"{what}: refused: {refusal.reason}"
    if what == "train":
        traffic = f"{received:,} bytes received, {len(answer.tensors):,} sent"
        return f"Round {message.metadata.group_id}: trained in {seconds:.1f} s, {traffic}."
    if what == "evaluate":
        return f"Round {message.metadata.group_id.split()[0]}: sent scores."
    return "Accepted the terms of the federation."

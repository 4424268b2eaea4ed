"""What the messages between the server and a client contain, apart from tensors.

``Hello``, ``Order`` and ``Question`` go to the client, ``Greeting``, ``Report``, ``Scores`` and ``Refusal`` are the
answers. Each is a JSON object whose fields have a type and a range; ``parse`` refuses everything else. Tensors travel
separately, as one sequence of bytes: those of ``fedloru.wire``.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedloru.errors import WireError, plain, quoted
from fedloru.method import Profile

PROTOCOL = 1
"""The number of this protocol; client and server need the same."""
MAX_TEXT = 4 * 2**20
"""The largest size in bytes of a message without its tensors."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
Short = Annotated[str, Field(max_length=256)]
Long = Annotated[str, Field(max_length=4096)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Reason = Annotated[str, Field(max_length=4096), AfterValidator(lambda text: plain(" ".join(text.split()), 4096))]
"""A sentence of the other side, for logs and records: one line of printable characters."""


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Hello(_Content):
    """The terms of a federation: what a client needs to build the model, and to decide whether it takes part.

    Args:
        protocol: the number of the protocol.
        fedloru: the version of the package on the server.
        flwr: the version of Flower on the server.
        run: the hash of W₀.
        base: the hash of the weights that merges change, in W₀.
        rounds: the number of rounds.
        client: the index of the client.
        name: the name under which the client is enrolled.
        clients: the number of clients that the method is set up for.
        config: the configuration, without data, partition and output.
        reading: the settings of the server's data, without paths.
        classes: the names of the classes.
        shapes: the shape of an example, by column; [] for texts, whose length varies.
        mean: the mean of each channel or feature of the server's data, () if it is not standardized.
        std: the standard deviation of each.
        sends_base: whether a client that cannot build W₀ itself receives it.
        scores: whether the server asks for scores on the client's own test examples.
    """

    kind: Literal["hello"] = "hello"
    protocol: Count
    fedloru: Short
    flwr: Short
    run: Hash
    base: Hash
    rounds: Count
    client: Count
    name: Short
    clients: Count
    config: dict[str, Any]
    reading: dict[str, Any]
    classes: list[Long]
    shapes: dict[Short, list[Count]]
    mean: list[Number]
    std: list[Number]
    sends_base: bool
    scores: bool


class Goodbye(_Content):
    """The end of a client's part: the server does not accept it, or the federation has ``finished``."""

    kind: Literal["goodbye"] = "goodbye"
    reason: Reason
    finished: bool = False


class Greeting(_Content):
    """The answer to ``Hello``: what a client holds and offers.

    ``held`` is the version of its base, None if it has none, and ``base`` the hash of the weights that merges change.
    ``examples`` and ``tests`` are its numbers of training and of test examples, 0 if it does not share scores.
    """

    kind: Literal["greeting"] = "greeting"
    fedloru: Short
    flwr: Short
    held: Count | None
    base: Hash
    examples: Count
    tests: Count


class Order(_Content):
    """The request to train, together with the sync message (``sync`` bytes, may be 0) and the down message.

    Args:
        round: the round, from 1.
        version: the version of the server's base.
        base: the hash of the weights that merges change.
        client: the index of the client.
        profile: the profile of the client.
        sync: the length of the sync message in bytes.
        last: the last round in which a reply of the client was accepted, 0 if none; its state of that round is used.
        oldest: the oldest round to which the server can return; the state of earlier rounds is not needed any more.
    """

    kind: Literal["order"] = "order"
    round: Annotated[int, Field(ge=1, lt=2**63)]
    version: Count
    base: Hash
    client: Count
    profile: list[tuple[Short, Number]]
    sync: Count
    last: Count
    oldest: Count

    @property
    def profiled(self) -> Profile:
        """The profile as a tuple."""
        return tuple(self.profile)


class Question(Order):
    """The request to score the model at the start of ``round`` on the client's own test examples."""

    kind: Literal["question"] = "question"  # type: ignore[assignment]


class Report(_Content):
    """The answer to ``Order``, with the up message; ``answers`` is the hash of the bytes that came with the order."""

    kind: Literal["report"] = "report"
    answers: Hash
    held: Count
    base: Hash
    seconds: Seconds


class Scored(_Content):
    """A score: the mean loss, the accuracy and F1 if there are classes, the number of units, and further metrics."""

    loss: Number
    accuracy: Share | None
    units: Count
    f1: Share | None = None
    metrics: Annotated[dict[Short, Number], Field(max_length=64)] = {}


class Scores(_Content):
    """The answer to ``Question``: the scores of the shared model, and of the client's personal model if it has one."""

    kind: Literal["scores"] = "scores"
    answers: Hash
    held: Count
    base: Hash
    shared: Scored
    personal: Scored | None = None


class Refusal(_Content):
    """The answer of a client that does not do what it was asked to.

    ``held`` and ``base`` say what it holds. If ``leave`` is set, it does not take part in the federation at all;
    ``finished`` repeats that of the ``Goodbye`` that it answers.
    """

    kind: Literal["refusal"] = "refusal"
    reason: Reason
    held: Count | None = None
    base: Hash = ""
    leave: bool = False
    finished: bool = False


Content = TypeVar("Content", bound=_Content)


def text(content: _Content) -> bytes:
    """Return ``content`` as JSON."""
    return content.model_dump_json().encode()


def differing(fedloru: str, flwr: str) -> str | None:
    """Return which versions of the other side differ from ours in more than the patch level; None if none does."""
    for name, theirs in (("fedloru", fedloru), ("flwr", flwr)):
        ours = version(name)
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            return f"{name} {plain(theirs)} instead of {ours}"
    return None


def parse(data: bytes, kind: type[Content], sender: str) -> Content:
    """Return the content of a message from ``sender``, which is named in errors.

    Raises:
        WireError: it is something else than ``kind``, or a field has another type or is out of range.
    """
    if len(data) > MAX_TEXT:
        raise WireError(f"a message from {sender} has {len(data)} bytes of text; expected at most {MAX_TEXT}")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise WireError(
            f"a message from {sender} is not a valid {kind.__name__}: {plain(where)} is {quoted(first['input'])} "
            f"({first['msg']}). Use the same version of fedloru on the server and all clients"
        ) from error


def is_goodbye(data: bytes) -> bool:
    """Return whether a message is a ``Goodbye``."""
    return data.startswith(b'{"kind":"goodbye"')  # ``text`` writes the kind first


def answer(data: bytes, kind: type[Content], sender: str) -> Content | Refusal:
    """Return the content of an answer: one of ``kind``, or a refusal.

    Raises:
        WireError: it is neither.
    """
    if data.startswith(b'{"kind":"refusal"'):
        return parse(data, Refusal, sender)
    return parse(data, kind, sender)

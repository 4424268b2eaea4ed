"""The types of the values in the files of a run folder, which may come from another machine, or be damaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedloru.errors import FedloruError, RunFolderError, plain, quoted, sentence
from fedloru.reading import UnreadableError

Count = Annotated[int, Field(ge=0)]
ByKind = dict[str, Count]
Numbers = dict[str, float]
FEDERATION = "federation"
"""The scheme of a partition whose clients have their own data, which the server does not know."""


class Table(BaseModel):
    """A table that may have other entries; numbers are not converted from text."""

    model_config = ConfigDict(extra="allow", strict=True)


class Bytes(Table):
    """Bytes by direction and kind."""

    down: ByKind = {}
    up: ByKind = {}


class Profiled(Bytes):
    """The bytes of the clients of a profile."""

    clients: Count
    client_rounds: Count = 0


class Replied(Table):
    """The reply of a client in a round; ``seconds`` is the duration of its local training, as it states."""

    examples: Count
    loss: float
    seconds: float
    up_bytes: Count
    down_bytes: Count


class Refused(Table):
    """A client whose reply was not used, or that refused; ``reason`` may be cut, or "" if there are many."""

    client: str
    reason: str = ""


class Attendance(Table):
    """The results of a round of a federation, by name of the client.

    ``asked`` is the number of clients that were invited, ``lost`` are those that left or missed the deadline, ``late``
    is the number of replies to earlier rounds, and ``down_bytes`` were sent to clients without a reply that was used.
    """

    clients: dict[str, Replied] = {}
    refused: list[Refused] = []
    lost: list[str] = []
    late: Count = 0
    asked: Count | None = None
    down_bytes: dict[str, Count] = {}


class ClientScore(Table):
    """The scores of the shared model, and of its personal one, on a client's test examples, and the bytes.

    Earlier versions have an accuracy or a loss of the shared model, and an accuracy of the personal one.
    """

    units: Count = 0
    shared: Numbers = {}
    personal: Numbers | float | None = None
    accuracy: float | None = None
    loss: float | None = None
    up_bytes: Count = 0
    down_bytes: Count = 0


class Row(Table):
    """A line of ``rounds.jsonl``."""

    round: Annotated[int, Field(ge=1)]
    version: Count
    merged: bool
    seconds: float
    train_loss: float
    test_loss: float | None
    test_accuracy: float | None
    up_bytes: Count
    down_bytes: Count
    up_bytes_total: Count
    down_bytes_total: Count
    test_perplexity: float | None = None
    test_f1: float | None = None
    lr: float | None = None
    cohort: list[Count] = []
    bytes: Bytes = Bytes()
    profiles: dict[str, Profiled] = {}
    diagnostics: Numbers = {}
    sites: dict[str, Numbers] = {}
    personal: dict[str, Numbers] | None = None
    missing: dict[str, str] = {}
    federation: Attendance | None = None
    client_scores: dict[str, ClientScore] = {}


class StartRow(Row):
    """The content of ``start.json``: the scores of the model before training."""

    round: Literal[0]
    train_loss: None = None  # type: ignore[assignment]


class BestScore(Table):
    """The best evaluation of a run: by which score, in which round, and its value."""

    by: str
    round: Count
    score: float


class Summary(Table):
    """The content of ``summary.json``."""

    rounds: Count = 0
    method: str = ""
    task: str = ""
    loss: str = ""
    final_accuracy: float | None = None
    last5_accuracy: float | None = None
    final_loss: float | None = None
    final_perplexity: float | None = None
    up_bytes_total: Count = 0
    down_bytes_total: Count = 0
    bytes: Bytes = Bytes()
    fedavg_bytes_total: Count | None = None
    seconds: float = 0
    peak_rss_bytes: Count | None = None
    versions: dict[str, str] = {}
    merges: Count = 0
    profiles: dict[str, Profiled] = {}
    personal: dict[str, Numbers] | None = None
    start: dict[str, float | None] = {}
    best: BestScore | None = None
    ended: str = ""


class PartitionRecord(Table):
    """The content of ``partition.json``."""

    task: str = ""
    classes: list[Any] = []
    counts: list[list[Count]] = []
    audit: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    names: list[str] = []
    tested_on: str = ""


RESERVED = frozenset({"loss", "accuracy", "perplexity"})
"""The scores that every row has, or that follow from them; F1 may also be asked for as a metric."""


def metric_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the further metrics that ``rows`` have, such as "rmse" for the field "test_rmse"."""
    fields = dict.fromkeys(field for row in rows for field in row if field.startswith("test_"))
    names = [field.removeprefix("test_") for field in fields]
    return [name for name in names if name not in RESERVED | {"f1"}]


def check(table: dict[str, Any], form: type[BaseModel]) -> dict[str, Any]:
    """Return ``table`` if its values have the types of ``form``.

    Raises:
        UnreadableError: a value has another type.
    """
    try:
        form.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = plain(".".join(map(str, first["loc"])))
        raise UnreadableError(f"{where} is {quoted(first['input'])} ({first['msg']})") from error
    return table


@contextmanager
def shown(what: object) -> Iterator[None]:
    """Report values that no check covers, such as those of a damaged analysis, in one sentence.

    Raises:
        RunFolderError: ``what`` has values that cannot be shown.
    """
    try:
        yield
    except FedloruError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{what} cannot be shown, because its files have values that a run does not write ({sentence(error)}): "
            "restore the files"
        ) from error

"""The exceptions that fedloru raises; each has a message for the user.

::

    FedloruError            the base class; the command line prints the message and exits with 2
    ├─ ConfigError          an invalid configuration, with all its problems
    ├─ DataError            a data source that is missing or malformed
    │  └─ PartitionError    a partition that cannot be created, or fails its audit
    ├─ ModelError           a model that cannot be adapted, or folded
    ├─ TrainingError        training that failed or diverged, with the client and the round
    ├─ WireError            a message that cannot be read, or belongs to another run
    ├─ CredentialError      a certificate or key that is missing, invalid, expired, or belongs to something else
    ├─ UnreachableError     a server that does not answer, perhaps only now
    ├─ RunFolderError       a run folder or checkpoint that exists already, is damaged or has changed
    └─ MissingExtraError    an optional library that is not installed
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


class FedloruError(Exception):
    """The base class of all errors that fedloru raises; the message says how to fix the problem.

    Long quoted values in the message are cut, and control characters are escaped: values come from files and messages,
    and the message is printed on a terminal.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process, such as a worker of an engine, send the error with its message and attributes."""
        return _restored, (type(self), str(self)), vars(self)


def _restored(kind: type[FedloruError], message: str) -> FedloruError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


class ConfigError(FedloruError):
    """An invalid configuration; the message lists all its problems."""

    def __init__(self, problems: Sequence[str], source: str = "the configuration") -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{source} has {count}:\n{lines}")


class DataError(FedloruError):
    """A data source that is missing or malformed."""


class PartitionError(DataError):
    """A partition that cannot be created, or that fails its audit."""


class ModelError(FedloruError):
    """A model that cannot be adapted, or cannot be run as requested."""


class TrainingError(FedloruError):
    """Training that failed or diverged; ``problem`` is the message without the client and the round.

    ``client`` is None if it was not the local training of a client, and ``name`` is that of the client, if it has one.
    """

    def __init__(self, message: str, *, client: int | None, round: int, name: str | None = None) -> None:
        self.client, self.round, self.problem = client, round, message
        known = "" if name is None else f" ({quoted(name)})"
        where = "" if client is None else f"client {client}{known}, "
        super().__init__(f"{where}round {round}: {message}")


def diverged(problem: str, rate: float, *, client: int | None, round: int) -> TrainingError:
    """Return the error of training that diverged at the learning rate ``rate``."""
    advice = f"lower the learning rate (now {rate:g}) or the scale alpha/rank, or clip the gradient norm"
    return TrainingError(f"{problem}; {advice}", client=client, round=round)


@contextmanager
def decomposing(rate: float, round: int) -> Iterator[None]:
    """Report that a matrix cannot be decomposed: the weights of a model have become too large for that.

    Raises:
        TrainingError: a decomposition failed.
    """
    import torch

    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        problem = "the weights have diverged: a singular value decomposition does not converge"
        raise diverged(problem, rate, client=None, round=round) from error


class WireError(FedloruError):
    """A message that cannot be read, or that belongs to another run."""


class CredentialError(FedloruError):
    """A certificate or key that is missing, invalid, expired, or belongs to something else."""


class UnreachableError(FedloruError):
    """A server that does not answer; a later try may succeed."""


class RunFolderError(FedloruError):
    """A run folder or checkpoint that exists already, is damaged, or has changed."""


class MissingExtraError(FedloruError):
    """An optional library that is not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} requires {library}: install it with `pip install 'fedloru[{extra}]'`")


def optional(module: str, *, extra: str, purpose: str) -> Any:
    """Import and return ``module``, which the optional dependencies ``extra`` install.

    Args:
        module: dotted name of the module.
        extra: the extra to install, as in ``pip install 'fedloru[extra]'``.
        purpose: what needs the module; the error message starts with it.

    Raises:
        MissingExtraError: the top-level package of ``module`` is not installed.
    """
    package = module.partition(".")[0]
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingExtraError(package, extra, purpose) from error
    return import_module(module)


QUOTED = 80
"""The largest number of characters of a value in a message."""


def quoted(value: object, limit: int = QUOTED) -> str:
    """Return ``repr(value)`` on one line, cut to ``limit`` characters; unprintable characters are escaped.

    Every value in a message that comes from a file, a message or a setting is written by this function.
    """
    try:
        text = repr(value)
    except Exception:  # an integer of too many digits, a nesting that is too deep, or a faulty __repr__
        text = f"<{type(value).__name__}>"
    return plain(text, limit)


def plain(text: str, limit: int = QUOTED) -> str:
    """Return ``text`` on one line, cut to ``limit`` characters; unprintable characters are escaped."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


_LONG_VALUE = re.compile(r"(?<!\w)'([^']{160,})'|(?<!\w)\"([^\"]{160,})\"")
LONGEST_LINE = 3000


def printable(message: str) -> str:
    """Return ``message`` with long quoted values and lines cut, and with control characters escaped."""
    cut = _LONG_VALUE.sub(lambda match: f"{match[0][:QUOTED]}…{match[0][-1]}", message)
    return "\n".join(plain(line, LONGEST_LINE) for line in cut.split("\n"))


def names(keys: Iterable[object], count: int = 5) -> str:
    """Return the first ``count`` of ``keys``, quoted, and how many more there are."""
    every = list(keys)
    more = f" and {len(every) - count} more" if len(every) > count else ""
    return ", ".join(quoted(key) for key in every[:count]) + more


def listed(items: Sequence[object]) -> str:
    """Return the first ten of ``items``, such as ids of clients or rows, and how many more there are."""
    more = f" and {len(items) - 10} more" if len(items) > 10 else ""
    return ", ".join(str(item) for item in items[:10]) + more


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return the number with its noun, such as "1 client is" or "2,000 clients are"; ``plural`` defaults to an s."""
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def choices(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown ``name``: the most similar of ``known``, and a list of all."""
    options = sorted(known)
    hint = did_you_mean(get_close_matches(name[:QUOTED], options, n=1)) or "."
    return f"{hint} There {'is' if len(options) == 1 else 'are'}: {', '.join(options) or 'none'}"


def did_you_mean(near: Sequence[str]) -> str:
    """Return the suggestion after an unknown name; "" if ``near`` is empty."""
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _library_folders() -> list[Path]:
    torch = find_spec("torch")
    return [Path(__file__).parent, *([Path(torch.origin).parent] if torch and torch.origin else [])]


def sentence(error: Exception) -> str:
    """Return the type of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {plain(lines[0], 200) if lines else 'no message'}"


def traced(error: Exception) -> str:
    """Return ``sentence(error)``, with the innermost line of user code in its traceback, if any."""
    frames, libraries = traceback.extract_tb(error.__traceback__), _library_folders()
    user = [f for f in frames if not any(Path(f.filename).is_relative_to(folder) for folder in libraries)]
    return sentence(error) + (f" ({user[-1].filename}, line {user[-1].lineno})" if user else "")


@contextmanager
def naming(client: int, round: int, step: int, steps: int, examples: int | None = None) -> Iterator[None]:
    """Add the client, its number of ``examples``, the round and the local step to any exception inside the context.

    Raises:
        TrainingError: an exception was raised, other than ``torch.OutOfMemoryError``.
    """
    try:
        yield
    except Exception as error:  # user code may raise anything
        import torch  # which has been imported where something was trained; messages do not need it

        if isinstance(error, torch.OutOfMemoryError):
            raise  # the run adds which setting to lower
        reason = str(error) if isinstance(error, FedloruError) else f"{traced(error)}; fix the model or these examples"
        whose = "" if examples is None else f" on its {counted(examples, 'example')}"
        message = f"local step {step + 1} of {steps}{whose} failed: {reason}"
        raise TrainingError(message, client=client, round=round) from error

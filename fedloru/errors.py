"""The exceptions that fedloru raises on purpose: each carries one paragraph meant for the person at the keyboard.

::

    FedloruError            anything we refuse; the command line prints it and exits with 2
    ├─ ConfigError          the configuration, all its problems at once
    ├─ DataError            a data source that is missing or malformed
    │  └─ PartitionError    a partition that cannot be made, or fails its audit
    ├─ ModelError           a model that cannot be adapted, or folded
    ├─ TrainingError        a client that failed or diverged: names the client and the round
    ├─ WireError            a message that cannot be read, or belongs to another run
    ├─ RunFolderError       a run folder or checkpoint that is in the way, damaged or changed
    └─ MissingExtraError    an optional library that is not installed
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import torch


class FedloruError(Exception):
    """Anything fedloru refuses, with a message that says what to do."""


class ConfigError(FedloruError):
    """A configuration with problems, all of them listed."""

    def __init__(self, problems: Sequence[str], source: str = "the configuration") -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{source} has {count}:\n{lines}")


class DataError(FedloruError):
    """A data source that is missing or malformed."""


class PartitionError(DataError):
    """A partition that cannot be made, or that fails its audit."""


class ModelError(FedloruError):
    """A model that cannot be adapted or run as asked."""


class TrainingError(FedloruError):
    """Local training that went wrong on a client."""

    def __init__(self, message: str, *, client: int, round: int) -> None:
        self.client, self.round = client, round
        super().__init__(f"client {client}, round {round}: {message}")


class WireError(FedloruError):
    """A message that cannot be read, or that belongs to another run."""


class RunFolderError(FedloruError):
    """A run folder or checkpoint that is in the way, damaged, or changed."""


class MissingExtraError(FedloruError):
    """An optional library that is not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}: install it with `pip install 'fedloru[{extra}]'`")


def choices(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a ``name`` that is not ``known``: the nearest one, and all there are."""
    options = sorted(known)
    hint = did_you_mean(get_close_matches(name, options, n=1)) or "."
    return f"{hint} There {'is' if len(options) == 1 else 'are'}: {', '.join(options) or 'none'}"


def did_you_mean(near: Sequence[str]) -> str:
    """Return the question after a name that is not known; "" where none is ``near``."""
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


_NOT_THEIRS = (Path(__file__).parent, Path(torch.__file__).parent)


def sentence(error: Exception) -> str:
    """Return what an exception says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def traced(error: Exception) -> str:
    """Return what an exception says, and the last line of a user's own code that it came through, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not any(Path(f.filename).is_relative_to(folder) for folder in _NOT_THEIRS)]
    return sentence(error) + (f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else "")


@contextmanager
def naming(client: int, round: int, step: int, steps: int) -> Iterator[None]:
    """Name the client, the round and the local step in whatever goes wrong.

    Raises:
        TrainingError: anything went wrong, except that memory ran out.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # the run says what to lower
    except Exception as error:  # the user's own code may raise anything
        said = str(error) if isinstance(error, FedloruError) else f"{traced(error)}; mend the model or these examples"
        raise TrainingError(f"local step {step + 1} of {steps} failed: {said}", client=client, round=round) from error

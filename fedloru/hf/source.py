"""The source of a transformers model: a folder, or a name on the hub pinned to a commit.

Weights are read only from safetensors. Downloads are pinned to a commit, so they cannot change, and code that comes
with a model runs only with ``trust_remote_code``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from fedloru.errors import MissingExtraError, ModelError

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LONGEST = 800
"""The number of characters of the message of an exception that is passed on."""
LOAD_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""The exceptions that transformers raises for files it cannot load."""


class Source(NamedTuple):
    """A folder, or a name on the hub with a commit."""

    name: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the name is a local folder."""
        return Path(self.name).is_dir()

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments for ``from_pretrained``."""
        return {
            "pretrained_model_name_or_path": self.name,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.is_folder,
        }


def source(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """Return the source of the model ``name``.

    Raises:
        ModelError: it is neither the folder of a model nor a name with the revision of a commit.
    """
    place = Source(name, revision, trust_remote_code)
    if problem := _folder_problem(Path(name), revision) if place.is_folder else _name_problem(name, revision):
        raise ModelError(problem)
    return place


def check_weights(source: Source) -> None:
    """Check that a folder has its weights in safetensors; for models on the hub, transformers checks it.

    Raises:
        ModelError: the weights are pickled, or there are none.
    """
    folder = Path(source.name)
    if not source.is_folder or any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(path.name for pattern in PICKLED for path in folder.glob(pattern)):
        raise ModelError(
            f"{folder} has its weights in {', '.join(pickled)}, a pickle, which can run arbitrary code when loaded: "
            "ask the author of the model to save it again with model.save_pretrained(folder), which writes safetensors"
        )
    raise ModelError(f"{folder} has no *.safetensors, so it has no weights: name the folder of a complete model")


def _folder_problem(folder: Path, revision: str | None) -> str | None:
    if revision is not None:
        return f"{folder} is a folder, so it has no revision {revision!r}: leave the revision out"
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return f"{folder} holds an adapter, not a model: name the folder of its base model"
        return f"{folder} has no config.json, so it is not a transformers model: name the folder of a model"
    return None


def _name_problem(name: str, revision: str | None) -> str | None:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        return f"there is no folder {name}, and it is not a name on the hub (owner/name): check the path"
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        return (
            f"there is no folder {name}, and a name on the hub needs a commit, since branches and tags can move: set "
            f"revision to the 40 digits of a commit (got {revision!r}), or name a folder"
        )
    return None


def library(name: str = "transformers") -> Any:
    """Import and return a library of the extra ``hf``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, "hf", "a transformers model") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages and progress bars of transformers."""
    logging = library("transformers.utils.logging")
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def loading(source: Source, what: str) -> Iterator[None]:
    """Silence transformers, and turn its exceptions while it loads ``what`` into a ModelError.

    Raises:
        ModelError: ``what`` cannot be loaded.
    """
    try:
        with quiet():
            yield
    except LOAD_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}…"
        raise ModelError(f"{what} of {source.name} cannot be loaded: {reason}") from error

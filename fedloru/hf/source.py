"""Where a model of transformers comes from: a folder, or a name on the hub pinned to a commit.

Weights are read from safetensors alone. Nothing is downloaded that could change under the same name, and no code of
a model's author is run unless the user says so.
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
REFUSALS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What the library raises of files that it cannot load."""


class Source(NamedTuple):
    """A folder, or a name on the hub with the commit it is taken at."""

    name: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the name is that of a folder here."""
        return Path(self.name).is_dir()

    @property
    def arguments(self) -> dict[str, Any]:
        """What every ``from_pretrained`` is told of it."""
        return {
            "pretrained_model_name_or_path": self.name,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.is_folder,
        }


def source(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Source:
    """Return where ``name`` leads.

    Raises:
        ModelError: it is no folder of a model, and no pinned name.
    """
    found = Source(name, revision, trust_remote_code)
    if problem := _of_folder(Path(name), revision) if found.is_folder else _of_name(name, revision):
        raise ModelError(problem)
    return found


def check_weights(source: Source) -> None:
    """Look what a folder has its weights in; those of the hub are safetensors, or the library refuses them.

    Raises:
        ModelError: they are pickled, or there are none.
    """
    folder = Path(source.name)
    if not source.is_folder or any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(path.name for pattern in PICKLED for path in folder.glob(pattern)):
        raise ModelError(
            f"{folder} has its weights in {', '.join(pickled)}, a pickle, which can run any code when it is read: "
            "have whoever made it save it anew with model.save_pretrained(folder), which writes safetensors"
        )
    raise ModelError(f"{folder} has no *.safetensors, so there are no weights: name the folder of a whole model")


def _of_folder(folder: Path, revision: str | None) -> str | None:
    if revision is not None:
        return f"{folder} is a folder and has no revision {revision!r}: leave the revision out"
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return f"{folder} holds an adapter and no model: name the folder of its base model"
        return f"{folder} has no config.json, so it holds no model of transformers: name the folder of one"
    return None


def _of_name(name: str, revision: str | None) -> str | None:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        return f"there is no folder {name}, and a name on the hub has the form owner/name; check the path"
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        return (
            f"{name} is no folder here, and as a name on the hub it needs the commit it is taken at, since a branch "
            f"or tag can move: set revision to the 40 digits of a commit (now {revision!r}), or name a folder"
        )
    return None


def library(name: str = "transformers") -> Any:
    """Return a library of the extra ``hf``, imported when it is needed.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(name, "hf", "a model of transformers") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from its own reports and bars."""
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
def told(source: Source, what: str) -> Iterator[None]:
    """Say in one sentence, and without the library's own reports and bars, why ``what`` cannot be loaded.

    Raises:
        ModelError: the library refused.
    """
    try:
        with quiet():
            yield
    except REFUSALS as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{what} of {source.name} cannot be loaded: {said}") from error

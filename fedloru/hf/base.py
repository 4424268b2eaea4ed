"""The base of a net: the pretrained model that its adapter belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.errors import ModelError
from fedloru.hf.models import Task, read
from fedloru.hf.parts import in_body, is_classifier, is_pooler
from fedloru.hf.preparation import pad, transposed
from fedloru.hf.source import Source, check_weights, loading, source
from fedloru.net import Net
from fedloru.tree import Params


class Base(NamedTuple):
    """A model on disk or on the hub, and how it was loaded."""

    place: Source
    task: Task
    classes: tuple[str, ...]
    dtype: torch.dtype
    attention: Any

    def load(self, place: Source | None = None) -> Any:
        """Load the model with transformers from its place, or from another ``place``.

        Raises:
            ModelError: it cannot be loaded.
        """
        place = place or self.place
        check_weights(place)
        with loading(place, "the model"), torch.random.fork_rng(devices=[]):
            model, _ = read(place, self.task, self.classes, self.dtype, self.attention)
        pad(model)
        config: Any = model.config
        config.use_cache = config.get_text_config().use_cache = False
        return model.eval()

    @property
    def table(self) -> dict[str, Any]:
        """The description of the base in fedloru.json."""
        return {"name": self.place.name, "revision": self.place.revision, "dtype": str(self.dtype).split(".")[-1]}


def base(net: Net) -> Base:
    """Return the base of a net with a transformers model.

    Raises:
        ModelError: the model was created in memory, so the base could not be loaded elsewhere.
    """
    model: Any = net.model
    if not model.name_or_path:
        raise ModelError(
            f"the {type(model).__name__} was created in memory, so its adapter would have no base to be loaded with: "
            "save it with model.save_pretrained(folder), and train the model that fedloru.hf.load(folder) returns"
        )
    return described(net, source(model.name_or_path, revision(model), is_remote(model)))


def described(net: Net, place: Source) -> Base:
    """Return the base that describes the model of ``net``, loaded from ``place``."""
    model: Any = net.model
    task: Task = "classify" if is_classifier(model) else "causal"
    classes = tuple(class_names(model)) if task == "classify" else ()
    return Base(place, task, classes, model.dtype, model.config._attn_implementation)


def class_names(model: Any) -> list[str]:
    """Return the names of the classes of a classifier, in order."""
    return [model.config.id2label[number] for number in sorted(model.config.id2label)]


def revision(model: Any) -> str | None:
    """Return the commit of a model from the hub; None for a model from a folder."""
    commit: str | None = getattr(model.config, "_commit_hash", None)
    return commit


def is_remote(model: Any) -> bool:
    """Return whether the model's class comes from code on the hub (``trust_remote_code``)."""
    return type(model).__module__.startswith("transformers_modules")


def weights(model: Any) -> Params:
    """Return the parameters of a model of the library in the layout of nets: weights of Conv1D are transposed."""
    conv1d = set(transposed(model))
    named: Mapping[str, Tensor] = dict(model.named_parameters())
    return {key: (t.T.contiguous() if key in conv1d else t).detach() for key, t in named.items()}


def body_hash(net: Net, params: Params) -> str:
    """Return a hash of the weights in ``params`` without head and pooler, which do not depend on the task."""
    is_body = in_body(net.model)
    keys = {key for key in net.params if is_body(key) and not is_pooler(key)}
    return tree.digest(tree.select(params, sorted(keys - net.factors)))

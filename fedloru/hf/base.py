"""The base of a net: the model that it was made from, as whoever takes an adapter home loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru import tree
from fedloru.errors import ModelError
from fedloru.hf.models import Task, is_classifier, pad, read, transposed
from fedloru.hf.source import Source, check_weights, source, told
from fedloru.net import Net
from fedloru.tree import Params


class Base(NamedTuple):
    """A model on the disk or the hub, and what it was loaded as."""

    place: Source
    task: Task
    classes: tuple[str, ...]
    dtype: torch.dtype
    attention: Any

    def load(self, place: Source | None = None) -> Any:
        """Return the model as the library makes it; from another ``place``, the same kind of model.

        Raises:
            ModelError: it cannot be loaded.
        """
        place = place or self.place
        check_weights(place)
        with told(place, "the model"), torch.random.fork_rng(devices=[]):
            model, _ = read(place, self.task, self.classes, self.dtype, self.attention)
        pad(model)
        return model.eval()

    @property
    def table(self) -> dict[str, Any]:
        """What is told of it to others."""
        return {"name": self.place.name, "revision": self.place.revision, "dtype": str(self.dtype).split(".")[-1]}


def base(net: Net) -> Base:
    """Return the base of a net of transformers.

    Raises:
        ModelError: it was made in memory, and nobody else could load it.
    """
    model: Any = net.model
    if not model.name_or_path:
        raise ModelError(
            f"the {type(model).__name__} was made in memory, so that nobody else has it: save it with "
            "model.save_pretrained(folder), and train what fedloru.hf.load(folder) returns"
        )
    return described(net, source(model.name_or_path, revision(model), is_remote(model)))


def described(net: Net, place: Source) -> Base:
    """Return what the model of ``net`` was loaded as, with the ``place`` where it is."""
    model: Any = net.model
    task: Task = "classify" if is_classifier(model) else "causal"
    classes = tuple(class_names(model)) if task == "classify" else ()
    return Base(place, task, classes, model.dtype, model.config._attn_implementation)


def class_names(model: Any) -> list[str]:
    """Return the names of the classes of a classifier, in order."""
    return [model.config.id2label[number] for number in sorted(model.config.id2label)]


def revision(model: Any) -> str | None:
    """Return the commit that a model of the hub was taken at; None for one of a folder."""
    commit: str | None = getattr(model.config, "_commit_hash", None)
    return commit


def is_remote(model: Any) -> bool:
    """Say whether code that came with the model makes it, which somebody has trusted to get it."""
    return type(model).__module__.startswith("transformers_modules")


def weights(model: Any) -> Params:
    """Return the parameters of a model as the library makes it, in the form that nets have: Conv1D transposed."""
    turned = set(transposed(model))
    named: Mapping[str, Tensor] = dict(model.named_parameters())
    return {key: (t.T.contiguous() if key in turned else t).detach() for key, t in named.items()}


def body_hash(net: Net, params: Params) -> str:
    """Return a hash of the weights in ``params`` that models of every task have: without the head and the pooler."""
    prefix = f"{net.model.base_model_prefix}."
    keys = [key for key in net.params if key.startswith(prefix) and "pooler" not in key.split(".")]
    return tree.digest(tree.select(params, sorted(set(keys) - net.factors)))

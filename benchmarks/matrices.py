"""The random-matrix model of Hessians against draws of it, and against Hessians that `fedloru rank` has measured.

    python benchmarks/matrices.py [--ranks FILE] [--pictures DIR]

Draws: N = 400, eigenvalues 10, 6, -5 and 1, σ = 1, one draw for each number of examples. FILE is what
`fedloru rank --sizes 25,50,100,all -o FILE` writes: σ is fitted to the norms of its subsets, and their stable ranks are
predicted.
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
    """Return the model's word and one draw for every number of examples."""
    arguments = [(EIGENVALUES, SIGMA, n, SIZE) for n in EXAMPLES]
    return [pictures.Modelled(n, predict(*a), simulate(*a, seed=n)) for n, a in zip(EXAMPLES, arguments, strict=True)]


def measured(records: Sequence[dict[str, Any]]) -> tuple[list[Compared], str]:
    """Return measured stable ranks of the server's loss and its subsets beside predicted ones, and a table."""
    chosen = [r for r in records if r["client"] is None and r["layer"] is None and r["curvature"] == "hessian"]
    examples, squared = [r["examples"] for r in chosen], [r["squared_norm"]["value"] for r in chosen]
    norms, size = [abs(r["eigenvalues"][0]) for r in chosen], chosen[0]["parameters"]
    line, rows = fit(examples, squared, size), compare(examples, squared, norms, size)
    lines = ["| examples | ‖H‖₂ | ‖H‖_F² | fitted line | stable rank | predicted |", "|---|---|---|---|---|---|"]
    for row, norm, value in zip(rows, norms, squared, strict=True):
        told = predict([], line.sigma, row.examples, size, line.squared).squared
        figures = f"{norm:.1f} | {value:.1f} | {told:.1f} | {row.measured:.2f} | {row.predicted:.2f}"
        lines.append(f"| {row.examples:,} | {figures} |")
    return rows, "\n".join(lines)


def table(rows: Sequence[pictures.Modelled]) -> str:
    """Return what was told and seen as Markdown."""
    lines = ["| n | ‖H_n‖₂ told | seen | stable rank told | seen |", "|---|---|---|---|---|"]
    for n, told, seen in rows:
        figures = f"{told.norm:.2f} | {seen.norm:.2f} | {told.stable_rank:.1f} | {seen.stable_rank:.1f}"
        lines.append(f"| {n:,} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Draw, compare, print and save."""
    parser = argparse.ArgumentParser(description="The random-matrix model against draws and against measurements.")
    parser.add_argument("--ranks", type=Path, help="what `fedloru rank -o` has written")
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures (none without it)")
    arguments = parser.parse_args()
    rows = draws()
    print(table(rows))
    figures = {"model": pictures.modelled(rows)}
    if arguments.ranks:
        records = json.loads(arguments.ranks.read_text())["records"]
        found, said = measured(records)
        print(said)
        whole = [r for r in records if r["layer"] is None and r["curvature"] == "hessian"]
        spread = [r for r in whole if r["client"] is None]
        figures |= {
            "model-measured": pictures.compared(found),
            "stable-ranks": pictures.stable_ranks(whole),
            "spectra": pictures.spectra([spread[0], spread[len(spread) // 2], spread[-1]]),
        }
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save(figure, arguments.pictures / name)


if __name__ == "__main__":
    main()

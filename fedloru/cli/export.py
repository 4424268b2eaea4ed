"""The command that exports a trained model: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedloru.cli.app import app
from fedloru.cli.completion import run_folders

WORST = 5
"""The number of layers to list for a truncated adapter: those with the largest errors."""


@app.command()
def export(
    format: Annotated[str, typer.Option(metavar="FORMAT", help="merged: the whole model. peft: an adapter.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to create; it must not exist.")],
    folder: Annotated[Path | None, typer.Argument(metavar="RUN", hidden=True, autocompletion=run_folders)] = None,
    round: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Export the checkpoint of round N; default: the last one.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Export the model of the best evaluation, which eval.keep_best keeps.")
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option(min=1, metavar="R", help="Truncate the adapter to rank R by an SVD; default: keep it exact."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The name of the base in the adapter's files, such as a name on the hub; default: the run's model.",
        ),
    ] = None,
) -> None:
    """Export the trained model of a run, as a model or an adapter.

    RUN is a run folder, finished or not (default: the newest in runs/).

    A merged language model can be loaded with from_pretrained of transformers; any other model is a state dict. An
    adapter can be loaded by PEFT for the unchanged base, and holds the updates of all merges and the current factors.
    The export is loaded again and compared with the trained model. Examples: fedloru export runs/chat --format merged
    --out chat; fedloru export runs/chat --format peft --rank 16 --out chat-adapter.
    """
    from fedloru import exports
    from fedloru.cli.recent import last

    summary = exports.export(folder or last(), out, format=format, round=round, best=best, rank=rank, base=base)
    for line in _lines(summary):
        typer.echo(line)
    typer.echo(f"Exported to {out}")


def _lines(summary: dict[str, Any]) -> list[str]:
    from fedloru.exports import TRAINED

    check = summary["check"]
    lines = [f"Round {summary['round']}, {summary['merges']} merges."]
    if ranks := summary.get("ranks"):
        low, high = min(ranks.values()), max(ranks.values())
        lines.append(f"Adapter for {len(ranks)} layers, of rank {low if low == high else f'{low} to {high}'}.")
    if errors := summary.get("errors"):
        worst = sorted(errors, key=lambda key: errors[key], reverse=True)[:WORST]
        lines += ["Relative errors of the truncation, ‖BA − B'A'‖ / ‖BA‖, largest first:"]
        lines += [f"  {errors[key]:.4f}  {key}" for key in worst]
    lines.append(
        f"Checked on {check['examples']} {'random texts' if check['drawn'] else 'examples'}: scores of at most "
        f"{check['largest']:.4g} differ from those of {check['against']} by at most {check['difference']:.2g}."
    )
    if check["training"] != check["difference"]:
        lines.append(f"They differ from those of {TRAINED} by at most {check['training']:.2g}.")
    return lines

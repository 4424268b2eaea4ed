"""The command that takes a model home: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedloru import exports
from fedloru.cli.app import app

WORST = 5
"""So many layers of a truncated adapter are shown, those that lose most."""


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    format: Annotated[str, typer.Option(metavar="FORMAT", help="merged: the whole model. peft: an adapter.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to; it must not exist.")],
    round: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The checkpoint of round N; without it, the last.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=1, metavar="R", help="Cut the adapter to rank R by an SVD; without it, nothing is lost."),
    ] = None,
) -> None:
    """Take home what a run has learnt, as a model or an adapter.

    A merged language model is loaded by from_pretrained of transformers; any other is a state dict. An adapter is
    loaded by PEFT beside the untouched base, and holds what all cycles have learnt. What was written is loaded again
    and compared with the model that was trained. Examples: fedloru export runs/chat --format merged --out chat; fedloru
    export runs/chat --format peft --rank 16 --out chat-adapter.
    """
    told = exports.export(folder, out, format=format, round=round, rank=rank)
    for line in _lines(told):
        typer.echo(line)
    typer.echo(f"Written: {out}")


def _lines(told: dict[str, Any]) -> list[str]:
    check = told["check"]
    lines = [f"Round {told['round']}, {told['merges']} merges."]
    if ranks := told.get("ranks"):
        low, high = min(ranks.values()), max(ranks.values())
        lines.append(f"An adapter of {len(ranks)} layers, of rank {low if low == high else f'{low} to {high}'}.")
    if errors := told.get("errors"):
        worst = sorted(errors, key=lambda key: errors[key], reverse=True)[:WORST]
        lines += ["What is lost by the cut, as ‖BA − B'A'‖ / ‖BA‖, most in:"]
        lines += [f"  {errors[key]:.4f}  {key}" for key in worst]
    lines.append(
        f"Checked on {check['examples']} {'random texts' if check['drawn'] else 'examples'}: scores of up to "
        f"{check['largest']:.4g} differ from those of {check['against']} by {check['difference']:.2g}."
    )
    if check["training"] != check["difference"]:
        lines.append(f"From those of the training model, they differ by {check['training']:.2g}.")
    return lines

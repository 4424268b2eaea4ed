"""The options that ``rank`` and ``align`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedloru.cli import completion

Source = Annotated[
    str | None, typer.Argument(metavar="RUN|CONFIG", hidden=True, autocompletion=completion.configurations)
]
Round = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="For a run: use the checkpoint of round N (default: the last).")
]
Rounds = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="For a configuration: train N rounds first (default: 0).")
]
Batch = Annotated[int, typer.Option(min=1, metavar="B", help="Number of examples to process at once.")]
Double = Annotated[bool, typer.Option("--double", help="Compute in float64.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE",
        help="Write all results to FILE as JSON (default for a run: its folder, shown on its page).",
    ),
]

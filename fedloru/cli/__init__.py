"""The command line: a thin face over the library.

::

    app      the application, and how errors, warnings and Ctrl-C become words and exit codes
    train    run, resume                        view    audit, cost, report, config, presets
    compare  compare                            vary    the runs that compare makes
    methods  methods                            rank    rank
    align    align                              studied what rank and align share
    spectra  how rank shows what it found       agreed  how align does
    bar      the progress of both      export  export
"""

import sys
from pathlib import Path

from fedloru.cli import align, compare, export, methods, rank, train, view
from fedloru.cli.app import app


def main() -> None:
    """Run the command that the arguments name; the entry point of ``fedloru``.

    Modules of the current folder can be named as models, as under ``python -m``.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    app(prog_name="fedloru")


__all__ = ["align", "app", "compare", "export", "main", "methods", "rank", "train", "view"]

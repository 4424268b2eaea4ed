"""The command line, a thin layer over the library.

::

    app              the application: common options, errors, warnings, exit codes
    train            run, resume
    view             audit, cost, report, config, presets
    compare          compare
    vary             the runs that compare makes
    methods          methods
    rank             rank
    align            align
    study            what rank and align share
    spectrum_table   the results of rank as a table
    alignment_table  the results of align as a table
    progress         the progress bar of rank and align
    export           export
    federation       serve, reverse-proxy, enroll, clients
    join             join
    try_out          try, simulate
    certs            certs
"""

import signal

from fedloru.cli import (  # each defines its commands
    align,
    certs,
    compare,
    export,
    federation,
    join,
    methods,
    rank,
    train,
    try_out,
    view,
)
from fedloru.cli.app import app


def main() -> None:
    """Run the command that the arguments name; the entry point of ``fedloru``.

    SIGTERM, which service managers and containers send, stops a command like Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="fedloru")


__all__ = [
    "align",
    "app",
    "certs",
    "compare",
    "export",
    "federation",
    "join",
    "main",
    "methods",
    "rank",
    "train",
    "try_out",
    "view",
]

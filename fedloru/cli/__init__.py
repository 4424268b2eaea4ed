"""The command line, a thin layer over the library.

::

    app              the application: common options, errors, warnings, exit codes
    init             init                           looks, draft             what data is; the configuration
    train            run, resume                    training                     progress and results
    view             audit, cost, report, config,   audit_table, cost_table
                     presets
    compare          compare                        vary, comparison             the runs it makes; the results
    methods          methods                        methods_table
    rank             rank                           study, study_options         what rank and align share
    align            align                          spectrum_table, alignment_table, progress
    export           export
    federation       serve, reverse-proxy, enroll,
                     clients
    join             join
    try_out          try, simulate
    certs            certs
    output, completion, recent: JSON and the width of tables; what the shell completes; the runs meant by default

The files on the left declare the commands, without importing torch; the commands import those on the right.
"""

import signal

from fedloru.cli import init, train  # each defines its commands, which are listed in this order

# isort: split
from fedloru.cli import align, certs, compare, export, federation, join, methods, rank, try_out, view
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
    "init",
    "join",
    "main",
    "methods",
    "rank",
    "train",
    "try_out",
    "view",
]

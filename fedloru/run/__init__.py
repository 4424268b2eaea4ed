"""Everything that makes a run and its folder; what trains a cohort is in ``fedloru.engine``.

::

    plan      settings, checked                    loop         rounds, one after another
    record    the row of a round                   diagnostics  statistics of updates and merges
    summary   the results of a run                 profiles     clients that differ
    folder    the run folder                       checkpoint   the state, to resume from
    origin    hashes of what a run started from    increments   the factors of each merge
    lock      one writer per folder                client_state what clients keep between rounds
"""

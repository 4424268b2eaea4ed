"""Runs and their folders; the engines that train a cohort are in ``fedloru.engine``.

::

    plan      checked settings                     loop         the rounds of a run
    record    the row of a round                   diagnostics  statistics of updates and merges
    summary   the results of a run                 profiles     statistics by client profile
    folder    the run folder                       checkpoint   states to resume from
    row_files the rows of a run folder
    origin    hashes of what a run started from    increments   the factors of each merge
    lock      one writer per folder                client_state what clients keep between rounds
    budget    the rounds with diagnostics          sampling     clients and test examples that are drawn
"""

"""A run folder written by an earlier version, commit 9a41fbb: FedLoRU on digits, 6 clients, 5 rounds, tau 2.

It was written by ``fedloru run small`` with data.source=digits, model.name=mlp, model.hidden=[8], a Dirichlet(1)
partition of 6 clients, rank 2 on fc1, rounds=5, cohort.size=3, output.checkpoint_every=2 and output.increments=true;
report.html and .lock were removed.
"""

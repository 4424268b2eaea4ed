"""The parts of ``peers.py``: the workloads, the table, the environments, and one driver per library."""

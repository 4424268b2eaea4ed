"""The parts of ``claims.py``: data, tasks, contenders, byte targets, tuning, runs, and the page of results."""

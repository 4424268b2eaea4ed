"""Tests of ``benchmarks/claims.py``."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[2] / "benchmarks")]

"""Runs: their folders, checkpoints, rows and diagnostics."""

"""Curvature, gradients and ranks, against dense matrices and closed forms."""

"""Tests of curvature, gradients and ranks against dense matrices and closed forms."""

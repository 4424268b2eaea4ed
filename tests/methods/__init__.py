"""Tests of the methods against their formulas, computed with dense matrices."""

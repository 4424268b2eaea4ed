"""The methods against their formulas, written out by hand over dense matrices."""

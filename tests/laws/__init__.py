"""The laws of the design, each tested over a table of methods and models."""

"""The laws of the design, each a test over a table of methods and models."""

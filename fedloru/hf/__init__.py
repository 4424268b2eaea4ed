"""Language models: texts made of tokens, and what a model writes.

The libraries of the extra ``hf`` are imported when they are used.
"""

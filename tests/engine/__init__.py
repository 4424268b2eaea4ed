"""The engines compared with each other and with ``torch.optim``, and models that cannot be folded."""

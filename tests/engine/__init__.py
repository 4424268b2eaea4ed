"""The engines against each other, against ``torch.optim``, and against models that do not fold."""

"""The limit of centralised training: the batches of all clients of a round as one, on one model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from work import Clock, Work, serve


def run(work: Work, clock: Clock) -> None:
    """Train on the examples of each round's clients: as many steps as a client has, on the batches of all of them."""
    model, optimizer = work.trained_model()
    for round, cohort in enumerate(work.cohorts, start=1):
        batches = [work.order(round, client).split(work.settings["batch"]) for client in cohort]
        for step in zip(*batches, strict=True):
            rows = torch.cat(step)
            optimizer.zero_grad()
            F.cross_entropy(model(work.x[rows]), work.y[rows]).backward()
            optimizer.step()
        clock.round(model)


if __name__ == "__main__":
    serve(run)

"""Federated averaging as a user would write it by hand in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from work import Clock, Work, serve


def run(work: Work, clock: Clock) -> None:
    """Train the clients of each round one after another, and average what they have trained."""
    model, optimizer = work.trained_model()
    trained = [p for p in model.parameters() if p.requires_grad]
    for round, cohort in enumerate(work.cohorts, start=1):
        start = [p.detach().clone() for p in trained]
        totals = [torch.zeros_like(p) for p in trained]
        examples = sum(len(work.clients[client]) for client in cohort)
        for client in cohort:
            with torch.no_grad():
                torch._foreach_copy_(trained, start)
            for rows in work.order(round, client).split(work.settings["batch"]):
                optimizer.zero_grad()
                F.cross_entropy(model(work.x[rows]), work.y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(totals, trained, alpha=len(work.clients[client]) / examples)
        with torch.no_grad():
            torch._foreach_copy_(trained, totals)
        clock.round(model)


if __name__ == "__main__":
    serve(run)

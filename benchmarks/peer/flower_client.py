"""The client of ``with_flower.py``, in a module that Ray's workers import, so that they keep what it has loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn, optim
from work import Work, load

app = ClientApp()


@cache
def loaded(folder: str) -> tuple[Work, nn.Module, optim.Optimizer]:
    """Return the work in ``folder``, its model and its optimizer."""
    work = load(Path(folder))
    return work, *work.trained_model()


def trained(model: nn.Module) -> ArrayRecord:
    """Return the trained weights of ``model`` as the content of a message."""
    return ArrayRecord({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model for one epoch, and send it back."""
    config = message.content["config"]
    work, model, optimizer = loaded(config["folder"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
    model.train()
    client = int(context.node_config["partition-id"])
    for rows in work.order(config["server-round"], client).split(work.settings["batch"]):
        optimizer.zero_grad()
        F.cross_entropy(model(work.x[rows]), work.y[rows]).backward()
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(work.clients[client])})
    return Message(RecordDict({"arrays": trained(model), "metrics": metrics}), reply_to=message)

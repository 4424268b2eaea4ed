"""Federated averaging with pfl (Apple): its simulator in one process, with datasets of tensors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from work import Clock, Work, serve


class Evaluation(TrainingProcessCallback):
    """Ends a round with an evaluation on the test examples."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Evaluate ``model``, and go on."""
        self.clock.round(model.pytorch_model)
        return False, Metrics()


def run(work: Work, clock: Clock) -> None:
    """Train with pfl's FederatedAveraging; each of its users is a client in a round."""
    module: Any = work.model()
    module.loss = lambda x, y: F.cross_entropy(module(x), y)
    module.metrics = lambda x, y: {"loss": Weighted(module.loss(x, y).item() * len(y), len(y))}
    weights = [p for p in module.parameters() if p.requires_grad]
    users = iter([(round, client) for round, cohort in enumerate(work.cohorts, start=1) for client in cohort])

    def examples(user: tuple[int, int]) -> PyTorchTensorDataset:
        rows = work.order(*user)
        return PyTorchTensorDataset((work.x[rows], work.y[rows]))

    data = FederatedDataset(examples, lambda: next(users))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=len(work.cohorts),
            evaluation_frequency=len(work.cohorts) + 1,  # pfl's own evaluation, on the clients of a round
            train_cohort_size=len(work.cohorts[0]),
            val_cohort_size=None,
        ),
        SimulatedBackend(data, data),
        PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(weights, lr=1.0)),
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work.settings["lr"], local_batch_size=work.settings["batch"]
        ),
        callbacks=[Evaluation(clock)],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    serve(run)

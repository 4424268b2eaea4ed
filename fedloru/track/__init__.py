"""Trackers of experiments: TensorBoard, MLflow and Weights & Biases follow a run.

::

    tracker    the interface of trackers     catalogue  trackers by name
    metrics    rows and settings as numbers  callback   the callback: resumes, and survives failures
    tensorboard, mlflow, wandb               each imports its library when a run starts
"""

from fedloru.track.callback import Tracking, tracking
from fedloru.track.catalogue import TRACKERS
from fedloru.track.tracker import Tracked, Tracker

__all__ = ["TRACKERS", "Tracked", "Tracker", "Tracking", "tracking"]

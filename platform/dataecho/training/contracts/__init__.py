"""The contracts between the loop and the parts around it, one file each, with the null object beside its contract."""

from dataecho.pipeline.batch import Arrays
from dataecho.training.contracts.backend import (
    MODEL,
    RANK,
    AcceleratorSettings,
    Backend,
    BackendContext,
    OptimizerSettings,
)
from dataecho.training.contracts.display import Display, NoDisplay, Progress
from dataecho.training.contracts.hook import Hook, HookInfo
from dataecho.training.contracts.pruner import NoPruner, Pruner
from dataecho.training.contracts.task import Evaluator, Predict, Task, WeightedMeans
from dataecho.training.contracts.tracker import NoTracker, RunInfo, Tracker

__all__ = [
    "MODEL",
    "RANK",
    "AcceleratorSettings",
    "Arrays",
    "Backend",
    "BackendContext",
    "Display",
    "Evaluator",
    "Hook",
    "HookInfo",
    "NoDisplay",
    "NoPruner",
    "NoTracker",
    "OptimizerSettings",
    "Predict",
    "Progress",
    "Pruner",
    "RunInfo",
    "Task",
    "Tracker",
    "WeightedMeans",
]

"""From a configuration to a run: checks the settings, and builds the parts."""

from dataecho.compose.input import InputSide, compose_input
from dataecho.compose.run import TrainingRun, compose_training
from dataecho.compose.workload import Workload, compose_workload, versions

__all__ = ["InputSide", "TrainingRun", "Workload", "compose_input", "compose_training", "compose_workload", "versions"]

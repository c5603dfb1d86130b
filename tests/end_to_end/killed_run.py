"""A real run in a process of its own that dies by SIGKILL after a given step.

Only the display is not the real one: it is what the loop calls after every step.
"""

import importlib
import os
import signal
from collections.abc import Sequence

import sklearn.datasets  # noqa: F401 - imported once, in the server that every run is forked from
import torch._dynamo  # noqa: F401

from dataecho.modes import run_mode
from dataecho.training.contracts import NoDisplay, Progress
from tests.support import PROJECT, config


class KillingDisplay(NoDisplay):
    def __init__(self, step: int) -> None:
        self._step = step

    def update(self, progress: Progress) -> None:
        if progress.steps == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(kill_after: int, overrides: Sequence[str]) -> None:
    importlib.import_module("dataecho.modes.train").new_display = lambda kind, num_examples: KillingDisplay(kill_after)
    run_mode(config(*overrides), folder=None, project=PROJECT)

"""Digits whose parts take as long as a test says."""

import time
from dataclasses import dataclass

from dataecho.pipeline.source import ArraySource
from dataecho.pipeline.stage import Stage
from dataecho_tasks.digits.data import Digits
from dataecho_tasks.digits.torch_model import DigitsNet


class SlowSource(ArraySource):
    """A worker that reads waits."""

    seconds = 0.0

    def read(self, shards, ks):
        time.sleep(self.seconds * len(ks))
        return super().read(shards, ks)


@dataclass(frozen=True, kw_only=True)
class SlowDigits(Digits):
    """``read_seconds`` of waiting, ``shift_seconds`` of a busy loop per example."""

    read_seconds: float = 0.0
    shift_seconds: float = 0.0

    def train_source(self):
        source = SlowSource({name: values[self.num_held_out :] for name, values in self._data.items()})
        source.seconds = self.read_seconds
        return source

    def stages(self):
        return (*self.eval_stages(), Stage("shift", self._slow_shift, random=True, batched=True))

    def _slow_shift(self, chunk, keys):
        until = time.thread_time() + self.shift_seconds * len(keys)
        while time.thread_time() < until:
            pass
        return self._shift(chunk, keys)


class SlowNet(DigitsNet):
    """A step takes ``step_seconds`` more, and no core."""

    def __init__(self, *, step_seconds, channels=(1, 1)):
        super().__init__(channels=channels)
        self.step_seconds = step_seconds

    def losses(self, batch):
        time.sleep(self.step_seconds)
        return super().losses(batch)

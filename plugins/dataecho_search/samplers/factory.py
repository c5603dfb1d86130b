"""The contract of a sampler factory."""

from __future__ import annotations

import abc
import math

from optuna.samplers import BaseSampler

from dataecho_search.space.dimensions import Space


class SamplerFactory(abc.ABC):
    """Makes the sampler that proposes one point."""

    @abc.abstractmethod
    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        """For point ``ordinal`` (from 0) of the study that ``seed`` belongs to."""

    def check(self, space: Space, *, num_objectives: int) -> None:
        """Raise :class:`SettingError` where ``space`` cannot be searched so."""
        del space, num_objectives

    def num_points(self, space: Space) -> float:
        """How many different points there are to ask for; most never run out."""
        del space
        return math.inf

"""The contract of a sampler factory."""

from __future__ import annotations

import abc
import math

from optuna.samplers import BaseSampler

from dataecho_search.space.dimensions import Space


class SamplerFactory(abc.ABC):
    """Creates the sampler that proposes one point of a study."""

    @abc.abstractmethod
    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        """Create the sampler of point ``ordinal`` (from 0) in the study with this seed."""

    def check(self, space: Space, *, num_objectives: int) -> None:
        """Raise :class:`SettingError` where this sampler cannot search ``space``."""
        del space, num_objectives

    def num_points(self, space: Space) -> float:
        """Return the number of different points, infinite for most samplers."""
        del space
        return math.inf

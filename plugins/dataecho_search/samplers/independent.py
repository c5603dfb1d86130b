"""Samplers whose points depend on nothing but the study's seed and the point's number."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from dataecho.errors import require
from dataecho_search.samplers.factory import SamplerFactory
from dataecho_search.space.dimensions import Space, at, values_of
from dataecho_search.space.seeds import derive


@final
class QuasiRandom(SamplerFactory):
    """Points of low discrepancy (Sobol 1967, Halton 1960), scrambled so that repeats are independent (Owen 1995). Sobol
    points are most even at powers of two."""

    def __init__(self, *, sequence: str = "sobol") -> None:
        require(
            sequence in ("sobol", "halton"),
            "hydra.sweeper.sampler.sequence",
            sequence,
            allowed="sobol, halton",
            cure="sobol is the default.",
        )
        self._sequence = sequence

    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        from scipy.stats import qmc

        engine = (qmc.Sobol if self._sequence == "sobol" else qmc.Halton)(len(space), scramble=True, rng=seed)
        if ordinal:
            engine.fast_forward(ordinal)
        with warnings.catch_warnings():  # SciPy warns that one point is no power of two
            warnings.simplefilter("ignore", UserWarning)
            (cube,) = engine.random(1)
        return FixedPoint(space, {key: at(space[key], float(x)) for key, x in zip(sorted(space), cube, strict=True)})


@final
class Random(SamplerFactory):
    """Independent points."""

    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        return optuna.samplers.RandomSampler(seed=derive(seed, "random", ordinal))


@final
class Grid(SamplerFactory):
    """Every combination once, in order; ``num_trials`` limits their number."""

    def check(self, space: Space, *, num_objectives: int) -> None:
        for key, dimension in space.items():
            require(
                values_of(dimension) is not None,
                key,
                "interval(...)",
                allowed="choice(...) or range(...) with hydra/sweeper/sampler=grid",
                cure="A grid needs steps: use for instance range(0.1, 1, 0.1).",
            )

    def num_points(self, space: Space) -> float:
        return math.prod(len(values_of(dimension) or ()) for dimension in space.values())

    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        points = itertools.product(*(values_of(space[key]) or () for key in space))
        point = next(itertools.islice(points, ordinal, None))
        return FixedPoint(space, dict(zip(space, point, strict=True)))


class FixedPoint(BaseSampler):
    """Proposes a given point."""

    def __init__(self, space: Space, point: Mapping[str, Any]) -> None:
        self._space, self._point = space, point

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return dict(self._point)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._point[param_name]

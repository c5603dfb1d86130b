"""Where a study's points come from.

A sampler is made anew for every point, from a seed that is a function of the study and of the point's number: a sweep
that is continued asks for what it would have asked for. Quasi-random, random and grid points depend on nothing else.
"""

from __future__ import annotations

import abc
import importlib
import inspect
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from dataecho.errors import SettingError, refuse_unknown, require
from dataecho_search.seeds import derive

Space = Mapping[str, BaseDistribution]


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


@final
class QuasiRandom(SamplerFactory):
    """Points of low discrepancy (Sobol 1967, Halton 1960), scrambled so that repeats are independent (Owen 1995). The
    first 2^m points of Sobol's are the most even ones."""

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
        with warnings.catch_warnings():  # about one point not being a power of two
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
    """Every combination once, in order; ``num_trials`` may cut it short."""

    def check(self, space: Space, *, num_objectives: int) -> None:
        for key, dimension in space.items():
            require(
                _values(dimension) is not None,
                key,
                "interval(...)",
                allowed="choice(...) or range(...) with hydra/sweeper/sampler=grid",
                cure="A grid needs steps: use for instance range(0.1, 1, 0.1).",
            )

    def num_points(self, space: Space) -> float:
        return math.prod(len(_values(dimension) or ()) for dimension in space.values())

    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        points = itertools.product(*(_values(space[key]) or () for key in space))
        point = next(itertools.islice(points, ordinal, None))
        return FixedPoint(space, dict(zip(space, point, strict=True)))


@final
class Adaptive(SamplerFactory):
    """One of Optuna's samplers that learn from finished trials. ``sampler``: its dotted name; ``options``: its own
    arguments. With several trials at once what it has learnt depends on when they end."""

    def __init__(self, *, sampler: str, options: dict[str, Any]) -> None:
        module, _, name = sampler.rpartition(".")
        try:
            self._class = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise self._refuse(sampler, error) from error
        if not (isinstance(self._class, type) and issubclass(self._class, BaseSampler)):
            raise self._refuse(sampler, "it is no sampler")
        known = [name for name in inspect.signature(self._class).parameters if name != "seed"]
        refuse_unknown(options, known, prefix="hydra.sweeper.sampler.options.", values=options)
        self._options = options

    @staticmethod
    def _refuse(sampler: str, why: object) -> SettingError:
        return SettingError(
            "hydra.sweeper.sampler.sampler",
            sampler,
            allowed="the dotted path of a class derived from optuna.samplers.BaseSampler",
            cure=f"Choose hydra/sweeper/sampler=tpe, for instance ({why}).",
        )

    def check(self, space: Space, *, num_objectives: int) -> None:
        if self._class is optuna.samplers.CmaEsSampler:
            require(
                num_objectives == 1,
                "hydra.sweeper.objective",
                f"{num_objectives} objectives",
                allowed="one with hydra/sweeper/sampler=cmaes",
                cure="Use hydra/sweeper/sampler=nsgaii or tpe for several.",
            )
        try:
            self.sampler(space, seed=0, ordinal=0)
        except ImportError as error:
            raise SettingError(
                "hydra/sweeper/sampler",
                self._class.__name__,
                allowed="a sampler whose packages are installed",
                cure=f'Install them: pip install "dataecho[search,torch]" ({error}).',
            ) from error

    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made = self._class(seed=derive(seed, "adaptive", ordinal), **self._options)
        assert isinstance(made, BaseSampler)
        if issubclass(self._class, optuna.samplers.GPSampler):
            return OnceFinite(made)
        return made


class OnceFinite(BaseSampler):
    """Draws at random, as ``sampler`` does for its first points, until every objective has a finite value: where all
    that is known is infinite, a Gaussian process knows nothing, and proposes the same corners again and again."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        values = [other.values for other in study.get_trials(deepcopy=False) if other.state.name == "COMPLETE"]
        if not values or not all(any(map(math.isfinite, column)) for column in zip(*values, strict=True)):
            return {}
        with warnings.catch_warnings():  # that it takes the worst finite value for an infinite one, at every point
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


class FixedPoint(BaseSampler):
    """Proposes one point that is known already."""

    def __init__(self, space: Space, point: Mapping[str, Any]) -> None:
        self._space, self._point = space, point

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return dict(self._space)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return dict(self._point)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._point[param_name]


def at(dimension: BaseDistribution, x: float) -> Any:
    """What lies at ``x`` in [0, 1) of a dimension; every value of a stepped one has an equal share."""
    if isinstance(dimension, CategoricalDistribution):
        return dimension.choices[min(int(x * len(dimension.choices)), len(dimension.choices) - 1)]
    if isinstance(dimension, IntDistribution) and dimension.log:
        low, high = math.log(dimension.low - 0.5), math.log(dimension.high + 0.5)
        return min(max(round(math.exp(low + x * (high - low))), dimension.low), dimension.high)
    values = _values(dimension)
    if values is not None:
        return values[min(int(x * len(values)), len(values) - 1)]
    assert isinstance(dimension, FloatDistribution)
    if dimension.log:
        low, high = math.log(dimension.low), math.log(dimension.high)
        return min(max(math.exp(low + x * (high - low)), dimension.low), dimension.high)
    return dimension.low + x * (dimension.high - dimension.low)


def _values(dimension: BaseDistribution) -> Sequence[Any] | None:
    """All values of a dimension that has finitely many, in order."""
    if isinstance(dimension, CategoricalDistribution):
        return dimension.choices
    if isinstance(dimension, IntDistribution):
        return range(dimension.low, dimension.high + 1, dimension.step)
    assert isinstance(dimension, FloatDistribution)
    if dimension.step is None:
        return None
    num = round((dimension.high - dimension.low) / dimension.step) + 1
    return [min(dimension.low + n * dimension.step, dimension.high) for n in range(num)]

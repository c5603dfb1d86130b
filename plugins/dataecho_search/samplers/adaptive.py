"""Optuna's samplers that learn from finished trials."""

from __future__ import annotations

import importlib
import inspect
import math
import warnings
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from dataecho.errors import SettingError, refuse_unknown, require
from dataecho.extras import cure_of_missing
from dataecho_search.samplers.factory import SamplerFactory
from dataecho_search.space.dimensions import Space
from dataecho_search.space.seeds import derive


@final
class Adaptive(SamplerFactory):
    """One of Optuna's samplers that learn from finished trials. ``sampler``: its dotted name; ``options``: its
    arguments. With parallel trials, a point depends on which trials have ended by then."""

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
                cure=cure_of_missing(error),
            ) from error

    def sampler(self, space: Space, *, seed: int, ordinal: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made = self._class(seed=derive(seed, "adaptive", ordinal), **self._options)
        assert isinstance(made, BaseSampler)
        if issubclass(self._class, optuna.samplers.GPSampler):
            return RandomUntilFinite(made)
        return made


class RandomUntilFinite(BaseSampler):
    """Draws at random, as ``sampler`` does for its first points, until every objective has a finite value. A Gaussian
    process learns nothing from infinite values and would propose the same corners again."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        values = [other.values for other in study.get_trials(deepcopy=False) if other.state.name == "COMPLETE"]
        if not values or not all(any(map(math.isfinite, column)) for column in zip(*values, strict=True)):
            return {}
        with (
            warnings.catch_warnings()
        ):  # it replaces infinite values by the worst finite one, and says so at every point
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)
